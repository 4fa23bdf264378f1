# Copyright (c) mmcropr contributors.
"""What a speed is compared with: no pruning, and ideal slicing."""
import copy
from typing import Any, Optional, Union

import torch
from torch import Tensor, nn

from mmcropr.models import CroprViT, LLFNeck, PoolNeck
from mmcropr.models.backbones.arch import trunk_class
from mmcropr.structures import FeatureMaps, TokenState
from mmcropr.utils.build import head_of_tokens


class SlicedBackbone(nn.Module):
    """A CroprViT that keeps the first tokens at every module, unscored.

    A plain loop over the same blocks, with views in place of selection and a
    concatenation in place of restoration: nothing of the token state's
    machinery, so that its cost shows in the ratio.

    Args:
        backbone: The one to do as.
        neck: Of a classifier, whose work it does, too.
        joined: Whether a head runs the blocks from ``fuse_at`` on.
    """

    def __init__(self,
                 backbone: CroprViT,
                 neck: Optional[PoolNeck] = None,
                 joined: bool = False) -> None:
        super().__init__()
        self.vit = backbone.vit
        self.trunk = trunk_class(self.vit)(
            self.vit, fuse_at=backbone.fuse_at)
        self.joined = joined
        self.in_channels = backbone.in_channels
        self.schedule, self.fuse_at = backbone.schedule, backbone.fuse_at
        self._lengths = backbone.lengths  # what it reaches, at any grid
        self.pool = None if neck is None else neck.pool
        if neck is not None and neck.llf is not None:
            self.fuse_at = self.trunk.stop if neck.llf else None

    def forward(self, image: Tensor) -> Union[FeatureMaps, TokenState]:
        state = self.trunk.embed(image)
        lengths = self._lengths(state.grid, self.training)
        plan = dict(zip(self.schedule.modules, lengths))
        mixed = getattr(self.vit, 'rope_mixed', False)
        x, left = state.x, []
        for number, block in enumerate(self.vit.blocks):
            if number == self.fuse_at and left:
                x = torch.cat([x, *reversed(left)], dim=1)
            if self.joined and number == self.fuse_at:
                state.x = x
                return state
            rope = state.origin.rope
            if rope is not None:
                rope = rope[number] if mixed else rope
                rope = rope[..., :x.shape[1] - state.num_prefix, :]
            x = block(x) if rope is None else block(x, rope)
            if number in plan:
                left.append(x[:, plan[number]:])
                x = x[:, :plan[number]]
        norm = state.origin.norm
        if self.pool == 'avg':
            return FeatureMaps([norm(x.mean(1))], state)
        if self.pool == 'cls':
            return FeatureMaps([norm(x)[:, 0]], state)
        return FeatureMaps([state.to_map(norm(x))], state)


def _with(module: nn.Module, **parts: Any) -> nn.Module:
    """Copy of a module that shares all weights, with some parts replaced."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    for name, part in parts.items():
        setattr(twin, name, part)
    return twin


def no_pruning(model: nn.Module) -> nn.Module:
    """The same model without its reducers."""
    backbone = _with(
        model.backbone, reducers=nn.ModuleList(), schedule=None,
        trunk=trunk_class(model.backbone.vit)(
            model.backbone.vit, fuse_at=model.backbone.fuse_at))
    return _with(model, backbone=backbone)


def ideal_slicing(model: nn.Module) -> nn.Module:
    """The same model with its reducers replaced by slices."""
    neck = getattr(model, 'neck', None)
    pool = neck if isinstance(neck, PoolNeck) else None
    parts = dict(backbone=SlicedBackbone(
        model.backbone, pool, joined=head_of_tokens(model) is not None))
    if isinstance(neck, (LLFNeck, PoolNeck)):
        parts['neck'] = nn.Identity()
    elif isinstance(neck, nn.Sequential):
        # As many parts as before: an encoder is the ViT with the first
        parts['neck'] = nn.Sequential(
            *(nn.Identity() if isinstance(n, LLFNeck) else n for n in neck))
    return _with(model, **parts)
