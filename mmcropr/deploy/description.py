# Copyright (c) mmcropr contributors.
"""What an exported file says about itself."""
from importlib import import_module
from typing import Any, Dict, List, Optional, Sequence, Union

import torch
from mmengine.config import Config
from torch import nn

from mmcropr.version import __version__

from .model import DeployModel

PACKAGES = ('timm', 'mmengine', 'mmseg', 'mmdet', 'mmpretrain', 'onnx',
            'onnxscript', 'openvino')
OPSET = 20


def preprocessing_of(model: nn.Module) -> Dict[str, Any]:
    """How an image, as read by OpenCV (BGR, 0 to 255), becomes the input:
    ``channels`` in this order, minus ``mean``, divided by ``std``, at the
    bottom and right padded with ``pad_value``, one number or one per
    channel."""
    given = model.data_preprocessor
    channels = model.backbone.in_channels
    mean, std = [0.] * channels, [1.] * channels
    if getattr(given, '_enable_normalize', False):
        mean, std = given.mean.flatten().tolist(), given.std.flatten().tolist()
    # That of mmengine, of mmseg and of mmpretrain
    swapped = any(getattr(given, name, False) for name in (
        '_channel_conversion', 'channel_conversion', 'to_rgb'))
    pad = getattr(given, 'pad_val', getattr(given, 'pad_value', 0))
    if getattr(given, 'pads_black', False):
        pad = [-m / s for m, s in zip(mean, std)]
    return dict(
        channels='rgb' if swapped else 'bgr', mean=mean, std=std,
        pad_value=pad)  # yapf: disable


def classes_of(cfg: Config, meta: dict, count: Optional[int]) -> List[str]:
    """Names of classes, of a checkpoint's meta data or a config; numbers
    where neither says them."""
    places = [meta.get('dataset_meta') or {}]
    for loader in ('test_dataloader', 'val_dataloader'):
        places.append((cfg.get(loader) or {}).get('dataset') or {})
        places.append(places[-1].get('metainfo') or {})
    for place in places:
        found = place.get('classes') or place.get('CLASSES')
        if found and not isinstance(found, str) and (
                count in (None, len(found))):
            return [str(name) for name in found]
    return [str(number) for number in range(count or 0)]


def versions() -> Dict[str, str]:
    """Of everything that had a part in an export, by import name."""
    found = dict(mmcropr=__version__, torch=torch.__version__)
    for name in PACKAGES:
        try:
            found[name] = import_module(name).__version__
        except (ImportError, AttributeError):
            continue
    return found


def describe(model: DeployModel, kind: str, batch: Union[int, str],
             names: Sequence[str], classes: Sequence[str], config: str,
             checkpoint: str) -> Dict[str, Any]:
    """All that a file says of itself, as JSON can hold it.

    Args:
        model: What is exported.
        kind: Name of the format.
        batch: Number of images, or the name of a free one.
        names: Of the outputs.
        classes: Names.
        config: Name of the config.
        checkpoint: Name of the checkpoint.
    """
    backbone, image = model.backbone, model.blank()
    schedule = backbone.schedule
    with torch.no_grad():
        shapes = [list(x.shape[1:]) for x in model(image)]
    height, width = (
        -(-n // p) for n, p in zip(model.shape, backbone.trunk.patch_size))
    grid = (height, width)
    return dict(
        config=config, checkpoint=checkpoint, task=model.task,
        part=model.part, format=kind, opset=OPSET,
        input=dict(
            name='image', shape=[batch, *image.shape[1:]],
            dtype=str(image.dtype).replace('torch.', '')),
        outputs=[
            dict(name=name, shape=[batch, *shape])
            for name, shape in zip(names, shapes)
        ],
        preprocessing=preprocessing_of(model.model),
        classes=list(classes),
        schedule=dict(
            reducers=[type(r).__name__ for r in backbone.reducers],
            blocks=list(schedule.modules) if schedule else [],
            lengths=backbone.lengths(grid),
            patches=grid[0] * grid[1], grid=list(grid)),
        versions=versions())  # yapf: disable
