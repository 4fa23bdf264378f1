# Copyright (c) mmcropr contributors.
import logging
import math
from pathlib import Path
from typing import Any, Dict, Iterable

import torch
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import nn

from .loading import UnsafeCheckpointError

# Weights that only training needs
AUXILIARY = ('auxiliary_head.', 'head.auxiliary.')


def read(path: str) -> Any:
    """Content of a checkpoint file, by mmengine's reader.

    Raises:
        ValueError: If it cannot be read.
    """
    try:
        checkpoint = CheckpointLoader.load_checkpoint(path, 'cpu')
        checkpoint.get('state_dict', checkpoint).items()
        return checkpoint
    except UnsafeCheckpointError:
        raise
    except Exception as error:  # every reader has errors of its own
        raise ValueError(
            f'{path} cannot be read as a checkpoint; it may be truncated or '
            f'something else. {type(error).__name__}: {error}') from error


def _shapes(path: str,
            model: nn.Module,
            prefix: str = '') -> Dict[str, torch.Size]:
    """Name -> shape of all weights in a file, as the model will see them;
    with a prefix, of those that have it."""
    checkpoint = read(path)
    start = prefix or 'module.'  # what mmengine takes off
    shapes = {
        key[len(start):] if key.startswith(start) else key: value.shape
        for key, value in checkpoint.get('state_dict', checkpoint).items()
        if key.startswith(prefix) and hasattr(value, 'shape')
    }
    wrapped = any(key.startswith('detector.') for key in shapes)
    if 'detector' in model._modules and not wrapped:
        # A CroprDetector takes the plain detector's.
        shapes = {f'detector.{key}': value for key, value in shapes.items()}
    return shapes


def _fits(model: nn.Module, key: str, loaded: torch.Size,
          expected: torch.Size) -> bool:
    """Whether a weight of a file becomes one of the model. CroprViT resamples
    position embeddings of another image size, if square, while it loads."""
    if loaded == expected:
        return True
    if not key.endswith('vit.pos_embed') or len(loaded) != 3 or (
            loaded[2] != expected[2]):
        return False
    vit = model.get_submodule(key.rpartition('.')[0])
    num_prefix = expected[1] - math.prod(vit.patch_embed.grid_size)
    patches = loaded[1] - num_prefix
    return patches > 0 and math.isqrt(patches)**2 == patches


def _check_most(model: nn.Module, shapes: Dict[str, torch.Size],
                what: str) -> None:
    """Raise a ValueError unless most weights of the backbone of a model, or
    of a module without one, are there. Reducers may be new."""
    expected = {
        key: value.shape for key, value in model.state_dict().items()
        if 'reducers.' not in key
    }
    backbone = {k: v for k, v in expected.items() if 'backbone.' in k}
    backbone = backbone or expected
    fit = [
        key for key, shape in backbone.items()
        if key in shapes and _fits(model, key, shapes[key], shape)
    ]
    if 2 * len(fit) <= len(backbone):
        raise ValueError(
            f'{what} gives {len(fit)} of the {len(backbone)} weights of the '
            'backbone; the others would start at random. It has '
            f'{", ".join(list(shapes)[:3]) or "nothing"}, ...; the model has '
            f'{", ".join(list(backbone)[:3])}, ... ' + (
                other_vit(shapes) or 'For weights of a ViT alone '
                "use the backbone's pretrained='FILE'."))


def other_vit(names: Iterable[str]) -> str:
    """What to do with weights of a transformer of the hosts; nothing for
    other names."""
    if not any('patch_embed.projection.' in name for name in names):
        return ''
    return ("The file has names of a transformer of mmseg, mmpretrain or "
            "mmdet, CroprViT has timm's: give the backbone pretrained=True "
            "for timm's weights, or pretrained='FILE' with a file of timm, "
            'MAE or EVA.')


def check_start(model: nn.Module, path: str) -> None:
    """Raise a ValueError unless most of a model's backbone fits a file; else
    mmengine would train from random weights with no more than a line in the
    log.

    Args:
        model: The model as built.
        path: A checkpoint file or an address that mmengine can load.
    """
    _check_most(model, _shapes(path, model), f'load_from={path}')


def check_init(model: nn.Module) -> None:
    """:func:`check_start` for every ``init_cfg`` of type 'Pretrained' in a
    model. A module of a host with its own ``init_weights``, such as Swin's,
    may rename what it reads and is left to it.

    Args:
        model: The model as built, before its ``init_weights``.
    """
    for name, module in model.named_modules():
        cfgs = getattr(module, 'init_cfg', None) or ()
        starts = getattr(type(module), 'init_weights', None)
        if getattr(starts, '__module__', '').split('.')[0] not in (
                'mmengine', 'mmcropr'):
            continue
        for cfg in [cfgs] if isinstance(cfgs, dict) else cfgs:
            kind = cfg.get('type')
            if getattr(kind, '__name__', kind) not in ('Pretrained',
                                                       'PretrainedInit'):
                continue
            path, prefix = cfg['checkpoint'], cfg.get('prefix') or ''
            if prefix and not prefix.endswith('.'):
                prefix += '.'
            _check_most(module, _shapes(path, module, prefix),
                        f'init_cfg of {name or "the model"} '
                        f'(checkpoint={path}, prefix={prefix!r})')


def check_checkpoint(model: nn.Module,
                     path: str,
                     exact: bool = False) -> None:
    """Raise a ValueError unless a file holds all weights of a model, and no
    others of reducers.

    mmengine loads what fits and only logs the rest, so a foreign checkpoint
    would be tested with random weights. What only training needs (auxiliary
    heads) may be missing.

    Args:
        model: The model as built.
        path: A checkpoint file or an address that mmengine can load.
        exact: Whether a model without reducers may not have the weights of
            one with them, as the optimiser's state does not fit it. Else a
            warning says so: it runs, without pruning.
    """
    shapes = _shapes(path, model)
    expected = {
        key: value.shape
        for key, value in model.state_dict().items()
        if not key.startswith(AUXILIARY)
    }
    missing = [key for key in expected if key not in shapes]
    other = [
        f'{key} {tuple(shapes[key])} for {tuple(shape)}'
        for key, shape in expected.items()
        if key in shapes and not _fits(model, key, shapes[key], shape)
    ]
    wrapped = f'detector.{next(iter(expected))}' in shapes
    if missing and wrapped:
        raise ValueError(
            f'{path} is a checkpoint of a CroprDetector, and the config is of '
            'the plain detector: give the config of the training, or convert '
            'both with tools/model_converters/strip_auxiliary.py.')
    reducers = [key for key in expected if 'backbone.reducers.' in key]
    more = [
        key for key in shapes
        if 'backbone.reducers.' in key and key not in expected
    ]
    if more and not reducers and not exact:
        print_log(
            f'{path} is of a model with a reducer ({more[0]}, ...), and that '
            'of the config has none: it runs without pruning.', 'current',
            logging.WARNING)
    elif more:
        raise ValueError(
            f'{path} has {len(more)} weights of reducers that the config does '
            f'not have ({", ".join(more[:3])}): another reducer, more modules,'
            ' or num_heads is missing in the reducer.')
    if missing or other:
        raise ValueError(
            f'{path} is no checkpoint of this model: of {len(expected)} '
            f'weights {len(missing)} are missing '
            f'({", ".join(missing[:3]) or "none"}), {len(other)} have another '
            f'shape ({", ".join(other[:3]) or "none"}). Was '
            f'{Path(path).name} trained with this config?')
