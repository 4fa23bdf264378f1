# Copyright (c) mmcropr contributors.
"""What the tokens of a model are on their way, read by hooks."""
from contextlib import contextmanager
from typing import Iterator, List, NamedTuple, Optional

import torch
from torch import Tensor, nn

from mmcropr.models import CroprViT, TopKPruner
from mmcropr.structures import TokenState


class Tokens(NamedTuple):
    """Tokens behind one block: ``x`` (B, P + K, D), and of every patch its
    place in the grid, (B, K); None while all are there."""
    x: Tensor
    index: Optional[Tensor]


class Watch(NamedTuple):
    """Of the forward passes within :func:`watch`.

    Args:
        blocks: Tokens behind every block.
        scores: What every module scored, (B, N) with infinity where a patch
            had left before; None for one that does not prune by scores.
    """
    blocks: List[Tokens]
    scores: List[Optional[Tensor]]


@contextmanager
def watch(backbone: CroprViT) -> Iterator[Watch]:
    """Record what a backbone does to its tokens. Modules that draw random
    numbers draw others then.

    Args:
        backbone: Runs within the block as ever.
    """
    seen = Watch([], [])
    now: List[Optional[Tensor]] = [None]

    def before(reducer: nn.Module, args: tuple) -> None:
        state: TokenState = args[0]
        if not isinstance(reducer, TopKPruner):
            seen.scores.append(None)
            return
        scores = reducer.score(state).float()
        everywhere = scores.new_full((scores.shape[0], state.num_patches),
                                     torch.inf)
        seen.scores.append(
            everywhere.scatter(1, state.raster_index(), scores))

    def after(reducer: nn.Module, args: tuple, state: TokenState) -> None:
        now[0] = state.index

    def block(module: nn.Module, args: tuple, x: Tensor) -> None:
        left = backbone.trunk.num_prefix + (
            0 if now[0] is None else now[0].shape[1])
        # A block that fuses has all of them
        seen.blocks.append(Tokens(x, now[0] if left == x.shape[1] else None))

    def restart(module: nn.Module, args: tuple) -> None:
        now[0] = None

    handles = [backbone.register_forward_pre_hook(restart)]
    for reducer in backbone.reducers:
        handles.append(reducer.register_forward_pre_hook(before))
        handles.append(reducer.register_forward_hook(after))
    for part in backbone.vit.blocks:
        handles.append(part.register_forward_hook(block))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def drift(found: Tokens, wanted: Tokens) -> float:
    """How far tokens are from others behind the same block: the norm of the
    difference, relative, over prefix tokens and patches that both have."""
    if found.x.shape != wanted.x.shape or (found.index is None) != (
            wanted.index is None):
        raise ValueError('tokens of different blocks cannot be compared.')
    x, y = found.x.float(), wanted.x.float()
    if found.index is not None:
        prefix = x.shape[1] - found.index.shape[1]
        same = (found.index[:, :, None] == wanted.index[:, None])
        ours = torch.cat([same.new_ones(len(x), prefix), same.any(2)], 1)
        theirs = torch.cat([same.new_ones(len(x), prefix), same.any(1)], 1)
        if (found.index.diff(dim=1) < 0).any() or (
                wanted.index.diff(dim=1) < 0).any():
            return float((x - y).norm() / y.norm())  # merged, in any order
        x, y = x[ours], y[theirs]
    return float((x - y).norm() / y.norm())
