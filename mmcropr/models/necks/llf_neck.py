# Copyright (c) mmcropr contributors.
from typing import Any, Optional

from mmengine.model import BaseModule
from torch import nn

from mmcropr.registry import MODELS
from mmcropr.structures import FeatureMaps, TokenState


@MODELS.register_module()
class LLFNeck(BaseModule):
    """Last Layer Fusion (Token Cropr, CVPR 2025).

    Puts kept and pruned tokens together again in raster order and runs the
    backbone's own last block and norm over all of them. No parameters.

    Attributes:
        takes_tokens: Says that this neck takes a :class:`TokenState`.
    """

    takes_tokens = True

    def forward(self, inputs: TokenState) -> FeatureMaps:
        """Tokens before the last block -> one map (B, D, h, w).

        Raises:
            TypeError: If ``inputs`` come from no ``out_type='tokens'``.
        """
        if not isinstance(inputs, TokenState):
            raise TypeError(_wrong_input(inputs))
        return FeatureMaps([inputs.fuse()], inputs)


def check_neck(neck: Optional[nn.Module]) -> None:
    """Raise a ValueError unless a neck, or the first of several, takes what a
    backbone with ``out_type='tokens'`` hands over."""
    first = neck[0] if isinstance(neck, nn.Sequential) else neck
    if not getattr(first, 'takes_tokens', False):
        found = 'none' if first is None else type(first).__name__
        raise ValueError(
            "out_type='tokens' needs neck=dict(type='mmcropr.LLFNeck'), in a "
            f'list of necks as the first, or for a classifier neck=dict(type='
            f"'mmcropr.PoolNeck'); the first neck is {found}. Or set "
            "out_type='featmap'.")


def _wrong_input(inputs: Any) -> str:
    return (f'LLFNeck takes the TokenState of a mmcropr.CroprViT with '
            f"out_type='tokens', got {type(inputs).__name__}. With out_type="
            "'featmap' the backbone fuses by itself: leave the neck out.")
