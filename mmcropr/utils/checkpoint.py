# Copyright (c) mmcropr contributors.
from pathlib import Path
from typing import Dict

import torch
from mmengine.runner import CheckpointLoader
from torch import nn

# Weights that only training needs
AUXILIARY = ('auxiliary_head.', 'head.auxiliary.')


def _shapes(path: str, model: nn.Module) -> Dict[str, torch.Size]:
    """Name -> shape of all weights in a file, as the model will see them."""
    try:
        checkpoint = CheckpointLoader.load_checkpoint(path, 'cpu')
        state = checkpoint.get('state_dict', checkpoint)
        given = {
            key[7:] if key.startswith('module.') else key: value.shape
            for key, value in state.items()
        }
    except Exception as error:  # every reader has errors of its own
        raise ValueError(
            f'{path} cannot be read as a checkpoint; it may be truncated or '
            f'something else. {type(error).__name__}: {error}') from error
    wrapped = any(key.startswith('detector.') for key in given)
    if 'detector' in model._modules and not wrapped:
        # A CroprDetector takes the plain detector's.
        given = {f'detector.{key}': value for key, value in given.items()}
    return given


def check_start(model: nn.Module, path: str) -> None:
    """Raise a ValueError if no weight of a file fits a model, which mmengine
    would train from random weights with no more than a line in the log.

    Args:
        model: The model as built.
        path: A checkpoint file or an address that mmengine can load.
    """
    given, wanted = _shapes(path, model), model.state_dict()
    if not any(key in wanted and wanted[key].shape == shape
               for key, shape in given.items()):
        raise ValueError(
            f'no weight of load_from={path} fits the model. It has '
            f'{", ".join(list(given)[:3])}, ...; the model has '
            f'{", ".join(list(wanted)[:3])}, ... For weights of a ViT alone '
            "use the backbone's pretrained='FILE'.")


def check_checkpoint(model: nn.Module, path: str) -> None:
    """Raise a ValueError unless a file holds all weights of a model, and no
    others of reducers.

    mmengine loads what fits and only logs the rest, so a foreign checkpoint
    would be tested with random weights. What only training needs (auxiliary
    heads) may be missing.

    Args:
        model: The model as built.
        path: A checkpoint file or an address that mmengine can load.
    """
    given = _shapes(path, model)
    wanted = {
        key: value.shape
        for key, value in model.state_dict().items()
        if not key.startswith(AUXILIARY)
    }
    missing = [key for key in wanted if key not in given]
    other = [
        f'{key} {tuple(given[key])} for {tuple(shape)}'
        for key, shape in wanted.items()
        if key in given and given[key] != shape
    ]
    wrapped = f'detector.{next(iter(wanted))}' in given
    if missing and wrapped:
        raise ValueError(
            f'{path} is a checkpoint of a CroprDetector, and the config is of '
            'the plain detector: give the config of the training, or convert '
            'both with tools/model_converters/strip_auxiliary.py.')
    reducers = [key for key in wanted if 'backbone.reducers.' in key]
    more = [
        key for key in given if 'backbone.reducers.' in key
        and reducers and key not in wanted
    ]
    if more:
        raise ValueError(
            f'{path} has {len(more)} weights of reducers that the config does '
            f'not have ({", ".join(more[:3])}): another reducer, more modules,'
            ' or num_heads is missing in the reducer.')
    if missing or other:
        raise ValueError(
            f'{path} is no checkpoint of this model: of {len(wanted)} weights '
            f'{len(missing)} are missing ({", ".join(missing[:3]) or "none"}'
            f'), {len(other)} have another shape '
            f'({", ".join(other[:3]) or "none"}). Was '
            f'{Path(path).name} trained with this config?')
