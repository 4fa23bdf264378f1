# Copyright (c) mmcropr contributors.
"""What the benchmark times: models of configs, and their references."""
from typing import (Any, Callable, Dict, List, NamedTuple, Optional, Sequence,
                    Tuple)

from mmengine.config import Config
from references import ideal_slicing, no_pruning
from torch import Tensor, nn
from training import build_for_training, detector_of, set_share

from mmcropr.models import CroprViT
from mmcropr.utils import rates
from mmcropr.utils.build import (Encoder, WholeModel, build_for_inference,
                                 plain_model)


class Entry(NamedTuple):
    """One thing that is timed; ``none`` and ``slicing`` are the names of its
    references, None where it is one itself."""
    name: str
    module: nn.Module
    none: Optional[str]
    slicing: Optional[str]


def load_configs(paths: Sequence[str],
                 shares: Optional[Sequence[float]] = None
                 ) -> Dict[str, Config]:
    """Configs by what their rows are called.

    Args:
        paths: Of them.
        shares: Of the patches that leave, a row each; None for a config's
            own. Configs without a reducer have one row.

    Raises:
        ValueError: Naming the config, if it has no model, or cannot have
            another share.
    """
    configs = {}
    for path in paths:
        cfg = Config.fromfile(path)
        if 'model' not in cfg:
            raise ValueError(f'{path}: the config has no model.')
        if not shares or rates.backbone_of(cfg).get('reducer') is None:
            configs[path] = cfg
            continue
        for share in shares:
            try:
                changed = rates.with_tpr(cfg, share)
            except ValueError as error:
                raise ValueError(f'{path}: {error}') from error
            configs[f'{path} --tpr {share:g}'] = changed
    return configs


def make_entries(configs: Dict[str, Config], whole: bool) -> List[Entry]:
    """Models of all configs, with their references.

    Configs that differ in nothing but their reducers share the reference
    without pruning; those with the same lengths also share the sliced one.
    Weights of equal ViTs are there once.

    Args:
        configs: By name.
        whole: Whether whole models, or encoders alone.
    """
    wrap = WholeModel if whole else Encoder
    entries: Dict[Any, Entry] = {}
    weights: Dict[Any, Tensor] = {}
    for config, cfg in configs.items():
        model_cfg = plain_model(cfg.model)
        model_cfg.pop('train_cfg', None)
        has_reducer = model_cfg.backbone.pop('reducer', None) is not None
        model = build_for_inference(cfg)
        check_backbone(config, model.backbone)
        for name, parameter in model.backbone.vit.named_parameters():
            parameter.data = weights.setdefault((name, parameter.shape),
                                                parameter.data)
        none_key = str(model_cfg.to_dict())
        if not has_reducer:
            entries.setdefault(none_key,
                               Entry(config, wrap(model), None, None))
            continue
        if none_key not in entries:
            entries[none_key] = Entry(f'no pruning ({config})',
                                      wrap(no_pruning(model)), None, None)
        none = entries[none_key].name
        slice_key = (none_key, tuple(model.backbone.lengths()))
        if not prunes(model.backbone):
            entries[slice_key] = entries[none_key]
        if slice_key not in entries:
            entries[slice_key] = Entry(f'ideal slicing ({config})',
                                       wrap(ideal_slicing(model)), none, None)
        entries[config] = Entry(config, wrap(model), none,
                                entries[slice_key].name)
    return list(dict.fromkeys(entries.values()))


def make_training_entries(configs: List[str],
                          share: Tuple[int, int]) -> List[Entry]:
    """Models of all configs in train mode, with their references, which have
    their ViT's weights and no auxiliary head.

    Args:
        configs: Paths.
        share: Of the full pruning rate, numerator and denominator.
    """
    entries: Dict[Any, Entry] = {}
    for config in dict.fromkeys(configs):
        cfg = Config.fromfile(config)
        model = build_for_training(cfg)
        backbone = detector_of(model).backbone
        check_backbone(config, backbone)
        if backbone.schedule is None:
            entries.setdefault(config, Entry(config, model, None, None))
            continue

        def reference(kind: str, change: Callable) -> str:
            plain = build_for_training(cfg, plain=True)
            plain.backbone = backbone
            name = f'{kind} ({config})'
            twin = change(plain).train()
            entries[name] = Entry(name, twin, None, None)
            return name

        none = reference('no pruning', no_pruning)
        slicing = reference('ideal slicing', ideal_slicing)
        entries[slicing] = entries[slicing]._replace(none=none)
        set_share(model, share)
        entries[config] = Entry(config, model, none, slicing)
    return list(entries.values())


def prunes(backbone: CroprViT) -> bool:
    """Whether any token leaves on images of its own size."""
    trunk = backbone.trunk
    everything = trunk.grid[0] * trunk.grid[1] + trunk.num_prefix
    return min(backbone.lengths()) < everything


def check_backbone(config: str, backbone: nn.Module) -> None:
    """Raise a ValueError unless it is a CroprViT."""
    if not isinstance(backbone, CroprViT):
        raise ValueError(f'{config}: its backbone is '
                         f'{type(backbone).__name__}, not CroprViT')


def backbone_of(module: nn.Module) -> nn.Module:
    """Backbone of an entry's module."""
    return detector_of(getattr(module, 'model', module)).backbone
