# Copyright (c) mmcropr contributors.
"""Index arithmetic on rows of token sequences, batched and of static shape.
Notation: see ``token_state.py``."""
from typing import Tuple

import torch
from torch import Tensor


def split_lowest(scores: Tensor, num_keep: int) -> Tuple[Tensor, Tensor]:
    """Positions of the ``num_keep`` highest scores, and of the others.

    The lowest are found by a partial selection; the rest keep their order, so
    nothing is sorted and the two parts are disjoint whatever the ties.

    Args:
        scores: (B, K), any float type.
        num_keep: How many stay, 0 < ``num_keep`` < K.

    Returns:
        kept (B, num_keep), ascending, and pruned (B, K - num_keep).
    """
    batch, length = scores.shape
    pruned = scores.topk(length - num_keep, largest=False, sorted=False)[1]
    stays = torch.ones_like(scores, dtype=torch.long).scatter(1, pruned, 0)
    # The n-th token that stays goes to slot n, from 1; those that leave share
    # slot 0, which is cut off. Shapes depend on numbers only, never on values.
    slot = stays.cumsum(1) * stays
    order = torch.arange(length, device=scores.device).expand(batch, -1)
    kept = order.new_zeros(batch, num_keep + 1).scatter(1, slot, order)
    return kept[:, 1:], pruned


def take_rows(x: Tensor, rows: Tensor, skip: int = 0) -> Tensor:
    """Rows ``rows`` (B, n), counted from row ``skip``, of ``x`` (B, M, D):
    whole rows at a time."""
    batch, length, dim = x.shape
    if batch == 1:
        return x[0, skip:].index_select(0, rows[0])[None]
    start = torch.arange(
        skip, skip + batch * length, length, device=x.device)[:, None]
    flat = x.reshape(-1, dim).index_select(0, (rows + start).flatten())
    return flat.view(batch, rows.shape[1], dim)


def put_rows(x: Tensor, rows: Tensor, length: int) -> Tensor:
    """Inverse of :func:`take_rows`: ``x`` (B, n, D) spread over a sequence of
    ``length`` = n rows, ``rows`` (B, n) being a permutation."""
    batch, _, dim = x.shape
    start = torch.arange(
        0, batch * length, length, device=x.device)[:, None]
    flat = x.new_empty(batch * length, dim)
    flat = flat.index_copy(0, (rows + start).flatten(), x.reshape(-1, dim))
    return flat.view(batch, length, dim)


def prefixed(rows: Tensor, num_prefix: int) -> Tensor:
    """Rows (B, n) of patches -> (B, P + n) of a sequence with its prefix
    tokens in front."""
    if num_prefix == 0:
        return rows
    prefix = torch.arange(num_prefix, device=rows.device)
    return torch.cat([prefix.expand(len(rows), -1), rows + num_prefix], dim=1)
