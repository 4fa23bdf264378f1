# Copyright (c) mmcropr contributors.
"""From a config and a checkpoint to a file that is proved equal."""
import copy
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from torch import nn

from mmcropr.utils.build import head_of_tokens, plain_model
from mmcropr.utils.checkpoint import AUXILIARY, check_checkpoint
from mmcropr.utils.files import staged

from .compare import Comparison, Report
from .description import classes_of, describe
from .formats import FORMATS, check_packages, check_torch, open_file
from .images import load_images
from .model import DeployModel

Images = Sequence[Tuple[str, np.ndarray]]


def load_model(cfg: Config, checkpoint: str) -> Tuple[nn.Module, dict]:
    """Model of a config with the weights of a checkpoint, a detector without
    its ``CroprDetector``, and the checkpoint's meta data.

    Raises:
        ValueError: If the checkpoint does not hold all its weights.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = MODELS.build(cfg.model)
    check_checkpoint(model, checkpoint)
    loaded = load_checkpoint(model, checkpoint, map_location='cpu')
    model = getattr(model, 'detector', model)
    plain = MODELS.build(plain_model(cfg.model))
    model.backbone.fold_queries()
    plain.backbone.fold_queries()
    plain.load_state_dict({
        key: value for key, value in model.state_dict().items()
        if not key.startswith(AUXILIARY)
    })
    head = head_of_tokens(plain)
    if head is not None:
        head.masked_attention = False  # as after its annealing
    return plain.eval(), loaded.get('meta') or {}


def to_half(model: nn.Module, shape: Sequence[int], part: str) -> DeployModel:
    """A copy in half precision."""
    return DeployModel(copy.deepcopy(model).half(), shape, part)


def to_program(model: DeployModel, dynamic_batch: bool) -> Any:
    """``torch.export.ExportedProgram`` of a model.

    Raises:
        ImportError: If torch is too old.
    """
    check_torch()
    shapes: Optional[tuple] = None
    if dynamic_batch:
        shapes = ({0: torch.export.Dim('batch', min=1)}, )
    image = model.blank(2 if dynamic_batch else 1)
    with torch.no_grad():
        return torch.export.export(model, (image, ), dynamic_shapes=shapes)


def compare(model: DeployModel, half: Optional[DeployModel],
            run: Callable[[np.ndarray], Dict[str, np.ndarray]],
            images: Images) -> Report:
    """Run every image through a file and through PyTorch.

    Args:
        model: In float32.
        half: In half precision, where the file is.
        run: Of the file, see :func:`open_file`.
        images: Names and inputs (1, C, H, W).
    """
    comparison = Comparison(model, half)
    for name, image in images:
        comparison.add(name, image, run(image))
    return comparison.report


def check_batches(run: Callable, image: np.ndarray) -> None:
    """Raise a ValueError unless every image of batches of 2 and 3, an image
    turned over in two ways, gives what it gives alone; numbers of tokens
    exactly."""
    images = [image, image[..., ::-1].copy(), image[..., ::-1, :].copy()]
    alone = [run(one) for one in images]
    for batch in (2, 3):
        together = run(np.concatenate(images[:batch]))
        for name, found in together.items():
            wanted = np.concatenate([one[name] for one in alone[:batch]])
            exact = np.issubdtype(wanted.dtype, np.integer)
            scale = 0. if exact else 1e-2 * max(
                float(np.abs(wanted).max()), 1e-6)
            if found.shape != wanted.shape or np.abs(
                    found.astype(np.float64) - wanted).max() > scale:
                raise ValueError(
                    f'the batch is not free: {batch} images give {name} of '
                    f'shape {found.shape}, or other values than one does.')


def export(cfg: Config, checkpoint: str, kind: str, out: Path,
           shape: Sequence[int], part: str, dynamic_batch: bool, half: bool,
           images: Sequence[Path]) -> Report:
    """Write a file, if it computes what PyTorch does.

    Args:
        cfg: Of the model.
        checkpoint: Of its training.
        kind: Name of the format, see ``FORMATS``.
        out: The file. It appears when it is proved.
        shape: Height and width of the images.
        part: 'whole' or 'encoder'.
        dynamic_batch: Whether the number of images is free, else it is 1.
        half: Whether it works in half precision.
        images: Image files to prove it on.

    Raises:
        ImportError: If something is not installed, with the command.
        ValueError: If the file is not equal, or cannot be: see there.
    """
    check_torch()
    form = FORMATS[kind]
    if out.suffix != form.suffix:
        raise ValueError(f'files of format {kind} end in {form.suffix}, got '
                         f'{out}')
    needed = tuple(dict.fromkeys((*form.needs, *form.runs_by)))
    check_packages(needed, f'format {kind}')
    trained, meta = load_model(cfg, checkpoint)
    halved = to_half(trained, shape, part) if half else None
    model = DeployModel(trained, shape, part)
    Comparison(model)  # refuses what cannot be proved
    exported = halved or model
    names = exported.output_names()
    head = getattr(trained, 'decode_head', getattr(trained, 'head', None))
    description = describe(
        exported, kind, 'batch' if dynamic_batch else 1, names,
        classes_of(cfg, meta, getattr(head, 'num_classes', None)),
        Path(cfg.filename).name, Path(checkpoint).name)
    inputs = load_images(images, description)
    with staged(out) as file:
        form.write(to_program(exported, dynamic_batch), names, description,
                   file)
        run = open_file(file)[1]
        report = compare(model, halved, run, inputs)
        raise_failures(report)
        if dynamic_batch:
            check_batches(run, inputs[0][1])
    return report


def verify(cfg: Config, checkpoint: str, file: Path,
           images: Sequence[Path]) -> Report:
    """Compare a file that is there with PyTorch.

    Args:
        cfg: Of the model.
        checkpoint: Of its training.
        file: As :func:`export` wrote it.
        images: Image files.

    Raises:
        ValueError: If it is not equal, or of another model.
    """
    description, run = open_file(file)
    trained = load_model(cfg, checkpoint)[0]
    shape, part = description['input']['shape'][2:], description['part']
    half = None
    if description['input']['dtype'] == 'float16':
        half = to_half(trained, shape, part)
    model = DeployModel(trained, shape, part)
    names = [output['name'] for output in description['outputs']]
    if model.output_names() != names:
        raise ValueError(f'{file} has the outputs {", ".join(names)}, the '
                         f'model {", ".join(model.output_names())}: it is of '
                         'another config.')
    schedule = description['schedule']
    lengths = model.backbone.lengths(tuple(schedule['grid']))
    if lengths != schedule['lengths']:
        raise ValueError(
            f'{file} leaves {schedule["lengths"]} tokens behind its modules, '
            f'the model {lengths}: give the --tpr that it was exported with, '
            'or the config.')
    report = compare(model, half, run, load_images(images, description))
    raise_failures(report)
    return report


def raise_failures(report: Report) -> None:
    """Raise a ValueError if a file is not equal."""
    failures: List[str] = report.failures()
    if failures:
        raise ValueError(
            f'not equal to PyTorch on {report.images} images: '
            f'{"; ".join(failures)}.')
