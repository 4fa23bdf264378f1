# Copyright (c) mmcropr contributors.
"""An exported file in place of a model, so that a host's own test loop, with
its data, post-processing and metrics, measures the file."""
from pathlib import Path
from typing import Any, Callable, Dict, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from mmcropr.models.backbones import cropr_vit_of

from .formats import open_file
from .model import task_of


def _runner(description: Dict[str, Any], run: Callable,
            file: Path) -> Callable[[Tensor], Tuple[Tensor, ...]]:
    """Images (B, C, H, W) -> outputs of the file but what it says of its
    tokens; one by one if its batch is not free."""
    wanted, names = description['input'], [
        output['name'] for output in description['outputs']
        if output['name'] not in ('removed', 'slot')
    ]

    def infer(images: Tensor) -> Tuple[Tensor, ...]:
        if list(images.shape[1:]) != wanted['shape'][1:]:
            raise ValueError(
                f'{file} takes images of {wanted["shape"][1:]} (C, H, W), the '
                f'test data gives {list(images.shape[1:])}. Let the test '
                'pipeline resize and pad to that size, or export another.')
        array = images.cpu().numpy().astype(wanted['dtype'])
        free = isinstance(wanted['shape'][0], str)
        parts = [run(part) for part in ([array] if free else array[:, None])]
        return tuple(
            torch.from_numpy(np.concatenate([part[name] for part in parts]))
            .to(images) for name in names)

    return infer


def _check_shape(model: nn.Module, description: Dict[str, Any],
                 file: Path) -> None:
    """Raise a ValueError unless an encoder's images are whole patches: its
    maps do not say where an image ends in them."""
    backbone = cropr_vit_of(model.backbone)
    shape = description['input']['shape'][2:]
    patch = shape if backbone is None else backbone.trunk.patch_size
    if any(n % p for n, p in zip(shape, patch)):
        raise ValueError(
            f'{file} is an encoder for images of {shape[0]} x {shape[1]} px, '
            f'no multiple of patches of {patch[0]} x {patch[1]}: the head of '
            'a segmentor would not know where the image ends. Export another '
            '--shape, or the whole model.')


def use_file(model: nn.Module, file: Path) -> Dict[str, Any]:
    """Make a segmentor, classifier or detector compute by a file. Of an
    exported encoder the heads stay, and use the weights of the model.

    Args:
        model: Of the config that the file was exported from; it is changed.
        file: As ``tools/deploy/export.py`` wrote it.

    Returns:
        What the file says about itself.

    Raises:
        ImportError: With the command, if its runtime is not installed.
        ValueError: If it is of another task or has other classes, or is an
            encoder of a segmentor for images that are not whole patches;
            later, if images come in another size.
    """
    model = getattr(model, 'detector', model)
    description, run = open_file(file)
    task = task_of(model)
    if description['task'] != task:
        raise ValueError(f'{file} is a model of {description["task"]}, the '
                         f'config one of {task}.')
    infer = _runner(description, run, file)
    if description['part'] == 'encoder':
        if task == 'segmentation':
            _check_shape(model, description, file)
        model.extract_feat = lambda images, *_, **__: infer(images)
        return description
    head = model.decode_head if task == 'segmentation' else model.head
    count, known = len(description['classes']), head.num_classes
    if count and known and count != known:
        raise ValueError(f'{file} has {count} classes, the config {known}.')
    if task == 'segmentation':
        model.encode_decode = lambda images, *_, **__: infer(images)[0]
    else:
        model.extract_feat = lambda images, *_, **__: infer(images)
        head.forward = lambda features: features[0]
    return description
