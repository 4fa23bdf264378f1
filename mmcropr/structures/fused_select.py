# Copyright (c) mmcropr contributors.
"""Selection as one Triton kernel, a program per image: what
:func:`~mmcropr.structures.rows.select_rows` does in six operations."""
from typing import Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _select(scores, kept, pruned, num_scores, num_prune, num_prefix,
            BLOCK: tl.constexpr):
    image = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK)
    there = place < num_scores
    score = tl.load(scores + image * num_scores + place, mask=there, other=0.)
    # The bits of a float as an integer of the same order
    bits = score.to(tl.int32, bitcast=True)
    key = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)
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
    num_keep = length - num_prune
    slot = num_prefix + tl.cumsum(stays.to(tl.int32), 0) - 1
    tl.store(kept + image * num_keep + slot, row, mask=stays)
    tl.store(kept + image * num_keep + place, image * length + place,
             mask=place < num_prefix)
    slot = tl.cumsum(leaves.to(tl.int32), 0) - 1
    tl.store(pruned + image * num_prune + slot, row, mask=leaves)


def fused_select(scores: Tensor,
                 num_keep: int,
                 num_prefix: int = 0) -> Tuple[Tensor, Tensor]:
    """Rows of the ``num_keep`` highest scores, and of the others, as
    :func:`~mmcropr.structures.rows.select_rows` gives them; of equal scores
    the first leave first, and pruned rows ascend, too.

    Args:
        scores: (B, K), any float type, at most 16384 an image.
        num_keep: How many stay, M.
        num_prefix: P, at most K.
    """
    batch, num_scores = scores.shape
    num_prune = num_scores - num_keep
    kept, pruned = (
        torch.empty(batch * number, dtype=torch.long, device=scores.device)
        for number in (num_prefix + num_keep, num_prune))
    _select[(batch, )](
        scores.float().contiguous(), kept, pruned, num_scores, num_prune,
        num_prefix, BLOCK=triton.next_power_of_2(num_scores))
    return kept, pruned
