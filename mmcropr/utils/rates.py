# Copyright (c) mmcropr contributors.
"""Change how much a config prunes."""
import argparse
import copy
from typing import Any, Optional

from mmengine.config import Config
from mmengine.registry import MODELS

AMOUNTS = ('rate', 'tpr', 'keep', 'keep_rate')  # a reducer takes one


def as_share(text: str) -> float:
    """Share of patches from a command line, of which less than all can
    leave."""
    try:
        value = float(text)
    except ValueError:
        value = -1.
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(
            f'a share is from 0 to below 1, got {text}')
    return value


def add_tpr(parser: argparse.ArgumentParser) -> None:
    """``--tpr``, for :func:`with_tpr`."""
    parser.add_argument(
        '--tpr', type=as_share, metavar='0..1',
        help='prune this share of the patches, evenly by the modules, instead '
        'of what the config says')


def tpr_suffix(tpr: Optional[float]) -> str:
    """Of names of what ``--tpr`` made, ``_tpr50`` for 0.5; empty without
    it."""
    return '' if tpr is None else f'_tpr{100 * tpr:g}'


def backbone_of(cfg: Config) -> Any:
    """Config of the CroprViT, also inside a CroprDetector or a LoRAModel."""
    backbone = cfg.model.get('detector', cfg.model).backbone
    return backbone.get('module', backbone)


def with_tpr(cfg: Config, tpr: float) -> Config:
    """The same config with another share of patches pruned, evenly by the
    same modules, whose weights stay.

    Args:
        cfg: Of a training.
        tpr: Total pruning ratio, in [0, 1).

    Raises:
        ValueError: If it has no model with a backbone, no reducer, or
            several, or one whose weights are of its own lengths.
    """
    cfg = copy.deepcopy(cfg)
    if 'model' not in cfg:
        raise ValueError('the config has no model.')
    if 'backbone' not in cfg.model.get('detector', cfg.model):
        raise ValueError(f'{cfg.model.get("type")} has no backbone whose '
                         'share of pruned patches could be another.')
    reducer = backbone_of(cfg).get('reducer')
    if not isinstance(reducer, dict):
        number = 'several' if isinstance(reducer, (list, tuple)) else 'none'
        raise ValueError('another share of pruned patches goes with one '
                         f'reducer of a config, and this one has {number}.')
    kind = reducer['type']
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    if getattr(kind, 'fixed_number', False):
        raise ValueError(
            f'the weights of {kind.__name__} are for the lengths that it '
            'was trained with; another share of pruned patches is another '
            'model.')
    for key in (*AMOUNTS, 'slope'):
        value = reducer.pop(key, None)
        if isinstance(value, (list, tuple)):  # one per module
            reducer.setdefault('modules', list(range(len(value))))
    reducer['tpr'] = tpr
    return cfg
