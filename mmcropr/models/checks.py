# Copyright (c) mmcropr contributors.
"""Do the parts of a model fit together? Asked before training."""
from typing import List

from mmengine.model import is_model_wrapper
from torch import nn

from .backbones import CroprViT
from .heads import StateHead
from .necks import check_neck, check_pyramid


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside (nested) model wrappers."""
    while is_model_wrapper(model):
        model = model.module
    return model


def backbones_of(model: nn.Module) -> List[CroprViT]:
    """Every CroprViT of a model."""
    return [m for m in model.modules() if isinstance(m, CroprViT)]


def find_backbone(model: nn.Module) -> CroprViT:
    """The CroprViT of a model, also inside (nested) model wrappers.

    Raises:
        ValueError: If there is none, or more than one.
    """
    model = unwrap(model)
    found = backbones_of(model)
    if len(found) != 1:
        raise ValueError(f'{type(model).__name__} has {len(found)} '
                         'mmcropr.CroprViT backbones where 1 is expected.')
    return found[0]


def check_model(model: nn.Module) -> None:
    """Check reducers, necks and heads of a model with one CroprViT against
    each other.

    Raises:
        ValueError: If the model has not one CroprViT, a neck does not take
            what the backbone gives, widths, strides or classes differ, or a
            reducer lacks its auxiliary head or has one that does not fit.
    """
    backbone, model = find_backbone(model), unwrap(model)
    if backbone.out_type == 'tokens':
        check_neck(getattr(model, 'neck', None))
    check_pyramid(model)
    main = getattr(model, 'decode_head', getattr(model, 'head', None))
    _check_width(model, main, backbone.trunk.embed_dim)
    heads = [m for m in model.modules() if isinstance(m, StateHead)]
    learner = next((r for r in backbone.reducers if r.leaves), None)
    if learner is not None and not heads:
        raise ValueError(
            f'{type(learner).__name__} learns through an auxiliary head, '
            'and the model has none: add '
            f'{learner.hint(backbone.num_modules)}.')
    wanted = getattr(main, 'num_classes', None)
    for head in heads:
        head.check_backbone(backbone)
        own = getattr(head, 'num_classes', None)
        if None not in (wanted, own) and wanted != own:
            raise ValueError(f'the auxiliary head has num_classes={own}, '
                             f'the main head {wanted}.')


def _check_width(model: nn.Module, main: nn.Module, embed_dim: int) -> None:
    """Of a main head that reads one map, or a vector, of the backbone."""
    neck = getattr(model, 'neck', None)
    direct = neck is None or getattr(neck, 'takes_tokens', False)
    several = getattr(main, 'input_transform', None) is not None
    width = getattr(main, 'in_channels', None)
    if direct and not several and isinstance(width, int) and (
            width != embed_dim):
        raise ValueError(f'{type(main).__name__} has in_channels={width}, the '
                         f'backbone gives {embed_dim} channels: set '
                         f'in_channels={embed_dim}.')
