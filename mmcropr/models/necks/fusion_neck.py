# Copyright (c) mmcropr contributors.
"""Ways to fuse kept and pruned tokens that Token Cropr compares with LLF
(CVPR 2025, ablation of token fusion).

The paper names them; what it leaves open was chosen so that parameters and
multiply-accumulates of EVA-02-L at 512 px are those of its table.
"""
from abc import abstractmethod
from typing import Any, List, Optional

import torch
from mmengine.model import BaseModule
from timm.layers import trunc_normal_
from torch import Tensor, nn

from mmcropr.registry import MODELS
from mmcropr.structures import FeatureMaps, TokenState

from .attention_block import AttentionBlock, resize_table


class FusionNeck(BaseModule):
    """Takes tokens before the backbone's last block, which runs on those that
    are left; a subclass makes a map of all places out of them.

    Attributes:
        takes_tokens: Says that this neck takes a :class:`TokenState`.
        llf: The last block does not run on all tokens.
    """

    takes_tokens = True
    llf = False

    @abstractmethod
    def fuse(self, state: TokenState) -> Tensor:
        """Tokens before the last block -> (B, P + N, D) for all places, not
        normalised."""

    def forward(self, inputs: TokenState) -> FeatureMaps:
        """Tokens before the last block -> one map (B, D, h, w).

        Raises:
            TypeError: If ``inputs`` come from no ``out_type='tokens'``.
        """
        self.check_input(inputs)
        tokens = inputs.origin.norm(self.fuse(inputs))
        return FeatureMaps([inputs.to_map(tokens)], inputs)

    def check_backbone(self, backbone: Any) -> None:
        """Raise a ValueError unless this neck fits a CroprViT; asked once,
        before training."""
        depth = backbone.trunk.depth
        if backbone.fuse_at not in (None, depth - 1):
            raise ValueError(
                f'the backbone puts all tokens back before block '
                f'{backbone.fuse_at} (fuse_at), so {type(self).__name__} has '
                'nothing to fuse: leave fuse_at out, or use neck=dict(type='
                "'mmcropr.LLFNeck').")
        width = getattr(self, 'in_channels', backbone.trunk.embed_dim)
        if width != backbone.trunk.embed_dim:
            raise ValueError(
                f'{type(self).__name__} has in_channels={width}, the tokens '
                f'of the backbone {backbone.trunk.embed_dim}; set '
                f'in_channels={backbone.trunk.embed_dim}.')

    def check_input(self, inputs: Any) -> None:
        """Raise a TypeError unless a token state is given."""
        if not isinstance(inputs, TokenState):
            raise TypeError(
                f'{type(self).__name__} takes the TokenState of a '
                "mmcropr.CroprViT with out_type='tokens', got "
                f'{type(inputs).__name__}.')


@MODELS.register_module()
class TokenConcatNeck(FusionNeck):
    """Token Concat: the last block runs on the kept tokens alone; pruned ones
    are put back behind it as they left. No parameters."""

    def fuse(self, state: TokenState) -> Tensor:
        state.finish_block()
        return state.restore().x


class AttentionNeck(FusionNeck):
    """Fusion by an attention block of its own behind the backbone's last one,
    and a linear layer behind that.

    Args:
        in_channels: Channels D of the tokens.
        num_heads: Of the attention.
        mlp_ratio: Hidden width of the MLP / D.
        init_cfg: As of every mmengine module.

    Raises:
        ValueError: If ``num_heads`` does not divide ``in_channels``.
    """

    def __init__(self,
                 in_channels: int,
                 num_heads: int,
                 mlp_ratio: float = 4.,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.block = AttentionBlock(in_channels, num_heads, mlp_ratio)
        self.proj = nn.Linear(in_channels, in_channels)


@MODELS.register_module()
class MHSAConcatNeck(AttentionNeck):
    """MHSA + Concat: kept tokens behind the last block and pruned ones as
    they left attend to each other in one more block. See
    :class:`AttentionNeck`."""

    def fuse(self, state: TokenState) -> Tensor:
        state.finish_block()
        return self.proj(self.block(state.restore().x))


@MODELS.register_module()
class CrossAttnNeck(AttentionNeck):
    """Cross-Attn: a learned query per place reads the kept tokens behind the
    last block; pruned ones are lost.

    Args:
        in_channels: Channels D of the tokens.
        num_heads: Of the attention.
        num_queries: Places (h, w) of the training crop; the table of queries
            is resized to the grid of other images.
        mlp_ratio: Hidden width of the MLP / D.
        init_cfg: As of every mmengine module.

    Raises:
        ValueError: If ``num_heads`` does not divide ``in_channels``, or
            ``num_queries`` are not two numbers.
    """

    concat = False

    def __init__(self,
                 in_channels: int,
                 num_heads: int,
                 num_queries: List[int],
                 mlp_ratio: float = 4.,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(in_channels, num_heads, mlp_ratio, init_cfg)
        if not isinstance(num_queries, (list, tuple)) or len(
                num_queries) != 2 or min(num_queries) < 1:
            raise ValueError('num_queries must be the grid (h, w) of the '
                             f'training crop, got {num_queries!r}')
        self.grid = (num_queries[0], num_queries[1])
        self.queries = nn.Parameter(
            torch.zeros(1, self.grid[0] * self.grid[1], in_channels))
        trunc_normal_(self.queries, std=.02)

    def fuse(self, state: TokenState) -> Tensor:
        state.finish_block()
        # Behind ATS, which keeps by image, not all that is there counts
        tokens, mask = state.x, state.mask
        state.restore()
        if self.concat:
            tokens, mask = state.x, None
        queries = resize_table(self.queries, self.grid, state.grid)
        queries = queries.expand(tokens.shape[0], -1, -1).to(tokens.dtype)
        patches = self.proj(self.block(
            queries, tokens, None if mask is None else mask.bool()))
        # A map has no place for prefix tokens; they stay as they are
        return torch.cat([tokens[:, :state.num_prefix], patches], dim=1)


@MODELS.register_module()
class CrossAttnConcatNeck(CrossAttnNeck):
    """Cross-Attn + Concat: the queries read kept and pruned tokens. See
    :class:`CrossAttnNeck`."""

    concat = True
