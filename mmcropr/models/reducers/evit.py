# Copyright (c) mmcropr contributors.
from typing import Optional

import torch

from mmcropr.registry import MODELS
from mmcropr.structures import (Merge, Prune, TokenState, split_lowest,
                                take_rows)

from .base import TokenReducer
from .baselines import class_attention


@MODELS.register_module()
class EViT(TokenReducer):
    """Keep the patches that the class token attends to most and fuse all
    others into one (Liang et al., Not All Patches are What You Need, ICLR
    2022), between the attention and the MLP of a block.

    The fused token is the sum of the others times their attention. It is the
    last one, and a patch like any other at later modules. A length counts it.

    Args:
        embed_dim: Channels D of the tokens.
        fuse: Whether the others are fused; False prunes them.
        init_cfg: As of every mmengine module.
    """

    step_types: tuple = (Merge, )
    needs_attention = needs_class_token = needs_gradient = True
    stage = 'attention'

    def __init__(self,
                 embed_dim: int,
                 fuse: bool = True,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(embed_dim, init_cfg)
        self.fuse = fuse
        self.step_types = (Merge, ) if fuse else (Prune, )

    def reachable_length(self, before: int, length: int,
                         num_prefix: int) -> int:
        """At least one patch and the fused one stay."""
        least = num_prefix + 1 + self.fuse
        return min(before, max(length, least))

    def forward(self, state: TokenState, length: int) -> TokenState:
        num_prefix = state.num_prefix
        length = self.reachable_length(state.length, length, num_prefix)
        if length >= state.length:
            return state
        if not self.fuse:
            state.prune(class_attention(state).detach(), length)
            return state
        patches, count = state.patches, length - num_prefix - 1
        scores = class_attention(state).to(patches.dtype)
        kept, pruned = split_lowest(scores.detach(), count)
        weights = scores.gather(1, pruned)
        fused = weights[:, None] @ take_rows(patches, pruned)
        merged = torch.cat([take_rows(patches, kept), fused], dim=1)
        places = torch.arange(count, device=kept.device)
        places = places.expand(kept.shape[0], -1)
        slots = torch.full_like(scores, count, dtype=torch.long)
        slots = slots.scatter(1, kept, places)
        # The fused token is where the most attended of its patches is.
        top = pruned.gather(1, weights.argmax(1, keepdim=True))
        state.merge(merged, slots, torch.cat([kept, top], dim=1))
        return state
