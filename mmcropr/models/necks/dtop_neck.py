# Copyright (c) mmcropr contributors.
import copy
from typing import Any, List, Optional, cast

from torch import Tensor, nn

from mmcropr.registry import MODELS
from mmcropr.structures import FeatureMaps, Prune, PrunedTokens, TokenState

from .fusion_neck import FusionNeck


@MODELS.register_module()
class DToPNeck(FusionNeck):
    """DToP: early exits (Tang et al., Dynamic Token Pruning in Plain Vision
    Transformers for Semantic Segmentation, ICCV 2023). A pruned patch is
    classified where it left; ``mmcropr.DToPHead`` puts that beside what it
    says of the kept ones. The exits learn from the loss of that head.

    Args:
        in_channels: Channels D of the tokens.
        num_classes: Of the data set.
        num_modules: Reducers of the backbone, which all have to prune.
        init_cfg: As of every mmengine module.
    """

    def __init__(self,
                 in_channels: int,
                 num_classes: int,
                 num_modules: int,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.exits = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(in_channels, eps=1e-6),
                nn.Linear(in_channels, num_classes))
            for _ in range(num_modules))
        for _, fc in self.exits:
            nn.init.trunc_normal_(fc.weight, std=.02)
            nn.init.zeros_(fc.bias)

    def check_backbone(self, backbone: Any) -> None:
        super().check_backbone(backbone)
        if backbone.num_modules != len(self.exits):
            raise ValueError(
                f'DToPNeck has num_modules={len(self.exits)}, the reducers of '
                f'the backbone are {backbone.num_modules}; set num_modules='
                f'{backbone.num_modules}.')
        others = sorted({type(reducer).__name__
                         for reducer in backbone.reducers
                         if set(reducer.step_types) - {Prune}})
        if others:
            raise ValueError('DToPNeck classifies patches where they leave; '
                             f'{", ".join(others)} does not just prune them.')

    def fuse(self, state: TokenState) -> Tensor:
        state.finish_block()
        return state.full()

    def forward(self, inputs: TokenState) -> FeatureMaps:
        """Tokens before the last block -> a map (B, D, h, w), and logits of
        the exits (B, classes, h, w), 0 at kept patches.

        Raises:
            TypeError: If ``inputs`` come from no ``out_type='tokens'``.
            ValueError: If patches did not just leave.
        """
        maps = super().forward(inputs)
        logits = self._classify(inputs)
        inputs.restore()
        return FeatureMaps([*maps, inputs.to_map(logits)], inputs)

    def _classify(self, state: TokenState) -> Tensor:
        """(B, P + N, classes)."""
        steps = state.steps
        if any(not isinstance(step, Prune) for step in steps):
            raise ValueError('DToPNeck classifies patches where they left, '
                             'and a reducer of this model merges them.')
        first = cast(Prune, steps[0]) if steps else None
        pruned: List[PrunedTokens] = first.pruned if steps else []
        modules = {part.module for part in pruned}
        parts = [
            part._replace(tokens=self.exits[part.module](part.tokens))
            for part in pruned
        ]
        # Exits without a patch, in a curriculum, have a gradient of zero
        idle = sum(
            layer(state.x[:, :0]).sum()
            for i, layer in enumerate(self.exits) if i not in modules)
        kept = state.x.new_zeros(*state.x.shape[:2],
                                 self.exits[0][1].out_features) + idle
        if not steps:
            return kept
        twin = copy.copy(first)  # puts logits where it puts tokens
        twin.pruned = parts
        return twin.undo(kept.to(parts[0].tokens.dtype), state.num_prefix)
