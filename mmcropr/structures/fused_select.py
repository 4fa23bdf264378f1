# Copyright (c) mmcropr contributors.
"""Selection as one Triton kernel, a program per image: what
:func:`~mmcropr.structures.rows.select_rows` does in eight operations."""
from typing import Optional

import torch
import triton
import triton.language as tl
from torch import Tensor

from .rows import Selection


# One kernel for all lengths of a schedule, not one for every kind of number
@triton.jit(do_not_specialize=[6, 7, 8, 9])
def _select(scores, through, kept, pruned, kept_origin, pruned_origin,
            num_scores, num_prune, num_prefix, stride,
            CHAINED: tl.constexpr, BLOCK: tl.constexpr):
    image = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK)
    there = place < num_scores
    score = tl.load(scores + image * stride + place, mask=there, other=0.)
    # The bits of a float as an integer of the same order
    bits = score.to(tl.int32, bitcast=True)
    key = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)
    key = tl.where(score != score, 2147483647, key)  # no number: the highest
    # The least key that as many have or undercut as shall leave, by halving
    low = tl.full((), -2147483648, tl.int64)
    high = tl.full((), 2147483647, tl.int64)
    for _ in range(32):
        middle = (low + high) >> 1
        count = tl.sum(((key <= middle) & there).to(tl.int32), 0)
        enough = count >= num_prune
        high = tl.where(enough, middle, high)
        low = tl.where(enough, low, middle + 1)
    below = (key < high) & there
    equal = (key == high) & there
    room = num_prune - tl.sum(below.to(tl.int32), 0)
    leaves = below | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= room))
    stays = there & (leaves == 0)
    length = num_prefix + num_scores
    row = image * length + num_prefix + place
    in_prefix = place < num_prefix
    prefix_row = image * length + place
    first = image * (length - num_prune)
    slot = first + num_prefix + tl.cumsum(stays.to(tl.int32), 0) - 1
    gone = image * num_prune + tl.cumsum(leaves.to(tl.int32), 0) - 1
    tl.store(kept + first + place, prefix_row, mask=in_prefix)
    tl.store(kept + slot, row, mask=stays)
    tl.store(pruned + gone, row, mask=leaves)
    if CHAINED:
        origin = tl.load(through + row, mask=there, other=0)
        prefix = tl.load(through + prefix_row, mask=in_prefix, other=0)
        tl.store(kept_origin + first + place, prefix, mask=in_prefix)
        tl.store(kept_origin + slot, origin, mask=stays)
        tl.store(pruned_origin + gone, origin, mask=leaves)


@torch.no_grad()
def fused_select(scores: Tensor,
                 num_keep: int,
                 num_prefix: int = 0,
                 through: Optional[Tensor] = None) -> Selection:
    """Rows of the ``num_keep`` highest scores, and of the others, as
    :func:`~mmcropr.structures.rows.select_rows` gives them; of equal scores
    the first leave first, and pruned rows ascend, too.

    Args:
        scores: (B, K), any float type, at most 16384 an image.
        num_keep: How many stay, M.
        num_prefix: P, at most K.
        through: As there.
    """
    batch, num_scores = scores.shape
    scores = scores.float()
    if scores.stride(1) != 1:
        scores = scores.contiguous()
    num_prune = num_scores - num_keep
    kept, pruned = (
        torch.empty(
            1 if through is None else 2, batch * count, dtype=torch.long,
            device=scores.device)
        for count in (num_prefix + num_keep, num_prune))
    found = Selection(kept[0], pruned[0], kept[-1], pruned[-1])
    with torch.cuda.device_of(scores):  # Triton launches on the current one
        _select[(batch, )](
            scores, found.kept if through is None else through, *found,
            num_scores, num_prune, num_prefix, scores.stride(0),
            CHAINED=through is not None,
            BLOCK=triton.next_power_of_2(num_scores))
    return found
