# Copyright (c) mmcropr contributors.
from typing import Any, Optional, Tuple

import torch
from timm.models.eva import checkpoint_filter_fn
from torch import Tensor, nn

from mmcropr.structures import TokenState

from .trunk import Trunk


class EvaTrunk(Trunk):
    """What differs for timm's Eva: rotary tables, LayerScale as parameters
    of the block, its checkpoints. See :class:`Trunk`."""

    convert = staticmethod(checkpoint_filter_fn)

    def _positions(self, x: Tensor) -> Tuple[Tensor, Optional[Tensor]]:
        return self.vit._pos_embed(x)

    def rope_of(self, number: int, state: TokenState) -> Optional[Tensor]:
        """Rotary embeddings of the current patches for one block.

        As timm made them while all patches are there, else (B, 1, K, R) or,
        where every block has its own, (B, heads, K, R): with the head axis,
        as without it timm would take the batch for heads. Queries in front of
        the patches are not turned.
        """
        rope = state.origin.rope
        if rope is None:
            return None
        mixed = getattr(self.vit, 'rope_mixed', False)
        table = rope[number] if mixed else rope
        if state.index_is_trivial:
            return self._with_queries(table, state.num_queries)
        if mixed:
            return table[:, state.index].transpose(0, 1)
        return state.rows_of(table)[:, None]

    @staticmethod
    def _with_queries(table: Tensor, count: int) -> Tensor:
        """A table (..., N, R), R / 2 sines before R / 2 cosines, behind
        ``count`` rows that turn nothing."""
        if not count:
            return table
        still = torch.zeros_like(table[..., :1, :])
        still[..., table.shape[-1] // 2:] = 1
        rows = still.expand(*still.shape[:-2], count, -1)
        return torch.cat([rows, table], dim=-2)

    def _whole(self, block: nn.Module, x: Tensor, rope: Optional[Tensor],
               bias: Optional[Tensor]) -> Tensor:
        return block(x, rope, bias)

    def _attend(self, block: nn.Module, x: Tensor, rope: Optional[Tensor],
                bias: Optional[Tensor]) -> Tensor:
        return block.attn(x, rope, bias)

    def _scale_of(self, block: nn.Module, branch: int) -> Any:
        gamma = getattr(block, f'gamma_{branch}')
        return nn.Identity() if gamma is None else lambda y: gamma * y
