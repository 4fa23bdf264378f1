# Copyright (c) mmcropr contributors.
"""Change how much a config prunes."""
import copy
from typing import Any

from mmengine.config import Config

from mmcropr.models.reducers.build import AMOUNTS


def backbone_of(cfg: Config) -> Any:
    """Config of the CroprViT, also inside a CroprDetector or a LoRAModel."""
    backbone = cfg.model.get('detector', cfg.model).backbone
    return backbone.get('module', backbone)


def with_tpr(cfg: Config, tpr: float) -> Config:
    """The same config with another share of patches pruned, by the same
    modules, whose weights stay.

    Args:
        cfg: Of a training.
        tpr: Total pruning ratio, in [0, 1).

    Raises:
        ValueError: If it has no reducer, or several.
    """
    cfg = copy.deepcopy(cfg)
    reducer = backbone_of(cfg).get('reducer')
    if not isinstance(reducer, dict):
        raise ValueError('--tpr changes the one reducer of a config, and this '
                         f'one has {"several" if reducer else "none"}.')
    keep = reducer.get('keep')
    if isinstance(keep, (list, tuple)):
        reducer.setdefault('modules', list(range(len(keep))))
    for key in (*AMOUNTS, 'slope'):
        reducer.pop(key, None)
    reducer['tpr'] = tpr
    return cfg
