# Copyright (c) mmcropr contributors.
"""Index arithmetic on rows of token sequences, batched and of static shape.
Notation: see ``token_state.py``."""
import importlib.util
import os
from functools import lru_cache
from typing import NamedTuple, Optional, Set, Tuple

import torch
from mmengine.logging import print_log
from torch import Tensor

# Selection as one Triton kernel, on a GPU: its first version was 1.4 to 3.7
# times as fast as the operations below on an H200 (docs/benchmarks)
FUSED = os.environ.get('MMCROPR_FUSED_SELECT') != '0'
MOST = 16384  # scores of an image that one program of it holds


class Numbers(NamedTuple):
    """Constants of row arithmetic, made once per forward pass: ``order``
    0, 1, 2, ... and as many ``ones``, both (n, ) of int64."""
    order: Tensor
    ones: Tensor

    @classmethod
    def up_to(cls, n: int, device: torch.device) -> 'Numbers':
        """For batches of n rows or fewer."""
        order = torch.arange(n, device=device)
        return cls(order, torch.ones_like(order))


_TRIED: Set[torch.device] = set()  # where the kernel was


class Selection(NamedTuple):
    """Rows of the flattened batch (B * (P + K), D), image by image: ``kept``
    (B * (P + M), ), ascending, and ``pruned`` (B * (K - M), ); and the same
    tokens' rows in the sequence before earlier selections."""
    kept: Tensor
    pruned: Tensor
    kept_origin: Tensor
    pruned_origin: Tensor


@lru_cache(maxsize=None)
def _kernel_works(device: torch.device) -> bool:
    """Whether Triton's kernel can be built here and run on a GPU; it wants a
    C compiler, and tells only when it is called. Waits for the GPU, once."""
    if importlib.util.find_spec('triton') is None:
        return False
    try:
        import triton
        if int(triton.__version__.split('.')[0]) < 3:
            return False
        from .fused_select import fused_select
        scores = torch.arange(16., device=device)[None]
        works = bool((fused_select(scores, 9)[0] > 6).all())
    except Exception as error:  # whatever it is, there is another way
        last = str(error).strip().splitlines()[-1:] or ['']
        print_log(
            'Tokens are selected without the Triton kernel, which does not '
            f'run here: {type(error).__name__}: {last[0]}', 'current')
        works = False
    _TRIED.add(device)
    return works


def _takes_kernel(scores: Tensor, num_prefix: int) -> bool:
    """Whether the kernel selects: on a GPU, where nothing records operations
    (compilers make kernels of their own)."""
    if not (FUSED and scores.is_cuda
            and num_prefix <= scores.shape[1] <= MOST):
        return False
    if torch.jit.is_tracing() or torch._dynamo.is_compiling():
        return False
    if type(scores) is not Tensor:  # a stand-in without values
        return False
    if scores.device not in _TRIED and torch.cuda.is_current_stream_capturing(
    ):
        return False  # to try it would end the capture
    return _kernel_works(scores.device)


def select_rows(scores: Tensor,
                num_keep: int,
                num_prefix: int = 0,
                numbers: Optional[Numbers] = None,
                through: Optional[Tensor] = None) -> Selection:
    """Rows of the ``num_keep`` highest scores, and of the others.

    The lowest are found by a partial selection; the rest keep their order, so
    nothing is sorted and the two parts are disjoint whatever the ties. The
    selection is as long as what is pruned, which is what compilers that bound
    it (TensorRT) take.

    Args:
        scores: (B, K), any float type.
        num_keep: How many stay, M, 0 < M < K.
        num_prefix: P; a sequence has P + K rows, the first P of which stay.
        numbers: For B * (P + K) rows or more; made if None.
        through: ``kept_origin`` of the selection before, (B * (P + K), );
            None if this is the first one.
    """
    if _takes_kernel(scores, num_prefix):
        from .fused_select import fused_select
        return fused_select(scores, num_keep, num_prefix, through)
    kept, pruned = _select_plainly(scores, num_keep, num_prefix, numbers)
    if through is None:
        return Selection(kept, pruned, kept, pruned)
    return Selection(kept, pruned, through.index_select(0, kept),
                     through.index_select(0, pruned))


def _select_plainly(scores: Tensor, num_keep: int, num_prefix: int,
                    numbers: Optional[Numbers]) -> Tuple[Tensor, Tensor]:
    """``kept`` and ``pruned`` of :func:`select_rows`."""
    batch, num_scores = scores.shape
    length = num_prefix + num_scores
    total, stay = batch * length, batch * (num_prefix + num_keep)
    if numbers is None:
        numbers = Numbers.up_to(total, scores.device)
    start = numbers.order[num_prefix:total:length]
    pruned = scores.topk(num_scores - num_keep, largest=False, sorted=False)[1]
    pruned = (pruned + start[:, None]).flatten()
    stays = numbers.ones[:total].index_fill(0, pruned, 0)
    # The n-th row that stays goes to slot n, from 1; those that leave share
    # slot 0, which is cut off. Shapes depend on numbers only, never on values.
    slot = stays.cumsum(0) * stays
    kept = numbers.order[:stay + 1].scatter(0, slot, numbers.order[:total])
    return kept[1:], pruned


def split_lowest(scores: Tensor, num_keep: int) -> Tuple[Tensor, Tensor]:
    """Positions in every image of the ``num_keep`` highest scores (B,
    num_keep), ascending, and of the others: :func:`select_rows` by image.

    Args:
        scores: (B, K), any float type.
        num_keep: How many stay, 0 < ``num_keep`` < K.
    """
    batch, length = scores.shape
    kept, pruned = select_rows(scores, num_keep)[:2]
    return (kept.view(batch, -1) % length, pruned.view(batch, -1) % length)


def other_rows(rows: Tensor, length: int) -> Tensor:
    """All rows of a sequence of ``length`` but ``rows`` (B, n), ascending,
    (B, ``length`` - n)."""
    batch, count = rows.shape
    stays = rows.new_ones(batch, length).scatter(1, rows, 0)
    # The n-th token that stays goes to slot n, from 1; those that leave share
    # slot 0, which is cut off. Shapes depend on numbers only, never on values.
    slot = stays.cumsum(1) * stays
    order = torch.arange(length, device=rows.device).expand(batch, -1)
    kept = order.new_zeros(batch, length - count + 1).scatter(1, slot, order)
    return kept[:, 1:]


def take_flat(x: Tensor, rows: Tensor) -> Tensor:
    """Rows of the flattened batch (B * n, ) of ``x`` (B, M, D) -> (B, n, D):
    whole rows at a time."""
    flat = x.flatten(0, 1).index_select(0, rows)
    return flat.view(x.shape[0], -1, x.shape[2])


def flat_rows(rows: Tensor, length: int) -> Tensor:
    """Rows (B, n) of sequences of ``length`` -> rows of the flattened batch
    (B * n, )."""
    batch = rows.shape[0]
    if batch == 1:
        return rows[0]
    start = torch.arange(0, batch * length, length, device=rows.device)
    return (rows + start[:, None]).flatten()


def take_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Rows ``rows`` (B, n) of ``x`` (B, M, D)."""
    return take_flat(x, flat_rows(rows, x.shape[1]))


def put_rows(x: Tensor, rows: Tensor, length: int) -> Tensor:
    """Inverse of :func:`take_rows`: ``x`` (B, n, D) spread over a sequence of
    ``length`` = n rows, ``rows`` (B, n) being a permutation."""
    batch, _, dim = x.shape
    full = x.new_empty(batch * length, dim)
    full = full.index_copy(0, flat_rows(rows, length), x.reshape(-1, dim))
    return full.view(batch, length, dim)


def prefixed(rows: Tensor, num_prefix: int) -> Tensor:
    """Rows (B, n) of patches -> (B, P + n) of a sequence with its prefix
    tokens in front."""
    if num_prefix == 0:
        return rows
    prefix = torch.arange(num_prefix, device=rows.device)
    prefix = prefix.expand(rows.shape[0], -1)
    return torch.cat([prefix, rows + num_prefix], dim=1)
