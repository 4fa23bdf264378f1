# Copyright (c) mmcropr contributors.
from typing import NamedTuple, Optional, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcropr.registry import MODELS
from mmcropr.structures import Merge, TokenState, other_rows, take_rows
from mmcropr.utils.precision import without_autocast

from .base import TokenReducer


class Matching(NamedTuple):
    """Places in a sequence of M tokens: ``kept`` (B, M - r), in front the
    prefix, then the even and then the odd ones, which decides who meets whom
    next time; and ``source`` (B, r) which merge into ``target`` (B, r)."""
    kept: Tensor
    source: Tensor
    target: Tensor


@torch.no_grad()
def match_tokens(features: Tensor, count: int, num_prefix: int) -> Matching:
    """Bipartite soft matching: tokens at even places propose their most
    similar one at odd places, the best proposals count. In float32 whatever
    the precision around it, so that training and inference match alike.

    Even ones that stay keep their order; without prefix tokens the most
    similar come first, as published.

    Args:
        features: (B, M, C), compared by their cosine.
        count: Number r of tokens that merge into others.
        num_prefix: Tokens in front that neither merge nor are merged into.
    """
    with without_autocast(features):
        features = F.normalize(features.float(), dim=-1)
        ours, theirs = features[:, ::2], features[:, 1::2]
        similarity = ours @ theirs.transpose(1, 2)
    similarity[:, :(num_prefix + 1) // 2] = -torch.inf
    similarity[:, :, :num_prefix // 2] = -torch.inf
    best, partner = similarity.max(-1)
    wanted = count if num_prefix else best.shape[1]
    proposals = best.topk(wanted)[1]
    chosen = proposals[:, :count]
    source, target = 2 * chosen, 2 * partner.gather(1, chosen) + 1
    length = features.shape[1]
    place = torch.arange(length, device=features.device)
    if num_prefix == 0:
        odd = place[1::2].expand(features.shape[0], -1)
        kept = torch.cat([2 * proposals[:, count:], odd], dim=1)
        return Matching(kept, source, target)
    even = 2 * other_rows(chosen, (length + 1) // 2)[:, (num_prefix + 1) // 2:]
    prefix, odd = (
        rows.expand(features.shape[0], -1)
        for rows in (place[:num_prefix], place[num_prefix | 1::2]))
    return Matching(torch.cat([prefix, even, odd], dim=1), source, target)


def merge_tokens(x: Tensor, size: Tensor,
                 matching: Matching) -> Tuple[Tensor, Tensor]:
    """Every target becomes the mean of itself and its sources, by size.

    Args:
        x: (B, M, D).
        size: How many tokens each stands for, (B, M), float32: sums of half
            precision would overflow.
        matching: What merges into what.

    Returns:
        Tokens (B, M - r, D) and their sizes (B, M - r).
    """
    kept, source, target = matching
    dtype, x = x.dtype, x * size[..., None]  # of float32, as size is
    rows = target[..., None].expand(-1, -1, x.shape[2])
    x = x.scatter_add(1, rows, take_rows(x, source))
    size = size.scatter_add(1, target, size.gather(1, source))
    x = (x / size[..., None]).to(dtype)
    return take_rows(x, kept), size.gather(1, kept)


@MODELS.register_module()
class ToMe(TokenReducer):
    """Merge similar patches inside a block (Bolya et al., Token Merging: Your
    ViT but Faster, ICLR 2023).

    Similarity is that of the keys, mean over heads and without position. A
    merged token is the mean over all patches in it and counts as many times
    in the attention of later blocks (proportional attention). At most half of
    the patches merge at once.

    Args:
        embed_dim: Channels D of the tokens.
        proportional: Whether tokens count by their size in attention. In the
            mean over all tokens (:class:`PoolNeck`) they do anyway.
        init_cfg: As of every mmengine module.
    """

    step_types = (Merge, )
    needs_attention = True
    stage = 'attention'

    def __init__(self,
                 embed_dim: int,
                 proportional: bool = True,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(embed_dim, init_cfg)
        self.proportional = proportional

    def reachable_length(self, before: int, length: int,
                         num_prefix: int) -> int:
        return max(length, before - (before - num_prefix) // 2)

    def forward(self, state: TokenState, length: int) -> TokenState:
        num_prefix = state.num_prefix
        length = self.reachable_length(state.length, length, num_prefix)
        if length >= state.length:
            return state
        keys = state.attention.key.mean(1)  # without position
        matching = match_tokens(keys, state.length - length, num_prefix)
        size = state.size
        if size is None:
            size = torch.ones_like(state.x[..., 0], dtype=torch.float32)
        # Where every token of the old sequence is in the new one
        kept, source, target = matching
        places = torch.arange(length, device=kept.device)
        slots = torch.zeros_like(size, dtype=torch.long)
        slots = slots.scatter(1, kept, places.expand(kept.shape[0], -1))
        slots = slots.scatter(1, source, slots.gather(1, target))
        x, size = merge_tokens(state.x, size, matching)
        state.proportional = self.proportional
        state.merge(x[:, num_prefix:], slots[:, num_prefix:] - num_prefix,
                    kept[:, num_prefix:] - num_prefix, size[:, num_prefix:])
        return state
