# Copyright (c) mmcropr contributors.
from typing import Any

from mmengine.model import BaseModule

from mmcropr.registry import MODELS
from mmcropr.structures import FeatureMaps, TokenState


@MODELS.register_module()
class LLFNeck(BaseModule):
    """Last Layer Fusion (Token Cropr, CVPR 2025).

    Puts kept and pruned tokens together again in raster order and runs the
    backbone's own last block and norm over all of them. No parameters.
    """

    def forward(self, inputs: TokenState) -> FeatureMaps:
        """Tokens before the last block -> one map (B, D, h, w).

        Raises:
            TypeError: If ``inputs`` come from no ``out_type='tokens'``.
        """
        if not isinstance(inputs, TokenState):
            raise TypeError(_wrong_input(inputs))
        state = inputs.restore()
        return FeatureMaps([state.to_map(state.finish())], state)


def _wrong_input(inputs: Any) -> str:
    return (f'LLFNeck takes the TokenState of a mmcropr.CroprViT with '
            f"out_type='tokens', got {type(inputs).__name__}. With out_type="
            "'featmap' the backbone fuses by itself: leave the neck out.")
