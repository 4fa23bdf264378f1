# Copyright (c) mmcropr contributors.
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcropr.registry import MODELS
from mmcropr.structures import TokenState, take_rows

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
    similar one at odd places, the best proposals count.

    Args:
        features: (B, M, C), compared by their cosine.
        count: Number r of tokens that merge into others.
        num_prefix: Tokens in front that neither merge nor are merged into.
    """
    features = F.normalize(features.float(), dim=-1)
    ours, theirs = features[:, ::2], features[:, 1::2]
    similarity = ours @ theirs.transpose(1, 2)
    similarity[:, :(num_prefix + 1) // 2] = -torch.inf
    similarity[:, :, :num_prefix // 2] = -torch.inf
    best, partner = similarity.max(-1)
    chosen = best.topk(count)[1]
    source, target = 2 * chosen, 2 * partner.gather(1, chosen) + 1
    length = features.shape[1]
    place = torch.arange(length, device=features.device)
    rank = torch.where(place < num_prefix, 0, 1 + place % 2)
    rank = rank.expand(len(features), -1).scatter(1, source, 3)
    order = rank.argsort(dim=1, stable=True)
    return Matching(order[:, :length - count], source, target)


@MODELS.register_module()
class ToMe(TokenReducer):
    """Merge similar patches inside a block (Bolya et al., Token Merging: Your
    ViT but Faster, ICLR 2023).

    Similarity is that of the keys, mean over heads and without position. A
    merged token is the mean over all patches in it and counts as many times
    in the attention of later blocks (proportional attention).

    Args:
        embed_dim: Channels D of the tokens.
        proportional: Whether tokens count by their size in attention.
        init_cfg: As of every mmengine module.

    Raises:
        ValueError: If more than half of the patches shall merge at once.
    """

    needs = ('keys', )
    stage = 'attention'

    def __init__(self,
                 embed_dim: int,
                 proportional: bool = True,
                 init_cfg: dict = None) -> None:
        super().__init__(embed_dim, init_cfg)
        self.proportional = proportional

    @classmethod
    def check_step(cls, before: int, after: int, num_prefix: int) -> None:
        most = (before - num_prefix) // 2
        if before - after > most:
            raise ValueError(
                f'ToMe can merge at most half of the patches at once: from '
                f'{before} tokens with {num_prefix} prefix tokens at most '
                f'{most}, asked are {before - after}. Spread them over more '
                'modules.')

    def forward(self, state: TokenState, length: int) -> TokenState:
        count = state.length - length
        if count <= 0:
            return state
        num_prefix = state.num_prefix
        self.check_step(state.length, length, num_prefix)
        kept, source, target = match_tokens(state.stats['keys'], count,
                                            num_prefix)
        size = state.stats.get('merged')
        if size is None:
            size = torch.ones_like(state.x[..., 0], dtype=torch.float32)
        x = state.x * size[..., None].to(state.x.dtype)
        rows = target[..., None].expand(-1, -1, x.shape[2])
        x = x.scatter_add(1, rows, take_rows(x, source))
        size = size.scatter_add(1, target, size.gather(1, source))
        x = x / size[..., None].to(x.dtype)
        # Where every token of the old sequence is in the new one
        places = torch.arange(kept.shape[1], device=kept.device)
        slots = torch.zeros_like(size, dtype=torch.long)
        slots = slots.scatter(1, kept, places.expand(len(kept), -1))
        slots = slots.scatter(1, source, slots.gather(1, target))
        size = size.gather(1, kept)
        state.stats['merged'] = size
        state.size = size if self.proportional else None
        state.x = torch.cat([state.x[:, :num_prefix], x[:, num_prefix:]], 1)
        state.merge(
            take_rows(x, kept[:, num_prefix:]),
            slots[:, num_prefix:] - num_prefix, kept[:, num_prefix:] -
            num_prefix)
        return state
