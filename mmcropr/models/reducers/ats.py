# Copyright (c) mmcropr contributors.
from typing import Tuple

import torch
from torch import Tensor

from mmcropr.registry import MODELS
from mmcropr.structures import Sample, TokenState

from .base import TokenReducer


@torch.no_grad()
def sample_by_cdf(scores: Tensor, real: Tensor,
                  count: int) -> Tuple[Tensor, Tensor]:
    """Sample by inverse transform at fixed, evenly spaced points.

    Args:
        scores: At least 0, (B, K).
        real: Which of the K are no filling, (B, K).
        count: Number of points M.

    Returns:
        Rows (B, M), ascending, and which of them are real and there for the
        first time, (B, M).
    """
    scores = scores.masked_fill(~real, 0.)
    share = scores / (scores.sum(1, keepdim=True) + 1e-6)
    # Filling shares its neighbour's value: move it out of reach
    cdf = share.cumsum(1) + 9. * (~real)
    points = torch.arange(count, device=scores.device) * 2 + 1
    points = points / (2 * (count + 1))
    rows = (cdf[:, None] - points[:, None]).abs().argmin(-1).sort(1)[0]
    first = torch.ones_like(rows[:, :1], dtype=torch.bool)
    first = torch.cat([first, rows[:, 1:] != rows[:, :-1]], dim=1)
    return rows, first & real.gather(1, rows)


def significance(state: TokenState) -> Tensor:
    """What the class token attends to each patch times the norm of its
    value, summed over heads, (B, K)."""
    attention = state.attention
    norms = attention.values()[:, :, state.num_prefix:].float().norm(dim=-1)
    return (attention.of_class_token() * norms).sum(1)


@MODELS.register_module()
class ATS(TokenReducer):
    """Adaptive Token Sampling (Fayyaz et al., ECCV 2022): images keep
    different numbers of patches, up to the length of the schedule.

    A patch weighs what the class token attends to it times the norm of its
    value; fixed points of the cumulative weights pick patches, and what is
    picked twice stays once. So that shapes are the same for all images, the
    places that are left over are filled and masked.
    """

    step_types = (Sample, )
    needs_attention = needs_class_token = True
    stage = 'attention'

    def forward(self, state: TokenState, length: int) -> TokenState:
        if length >= state.length:
            return state
        real = torch.ones_like(state.x[..., 0], dtype=torch.bool)
        if state.mask is not None:
            real = state.mask
        rows, valid = sample_by_cdf(significance(state),
                                    real[:, state.num_prefix:],
                                    length - state.num_prefix)
        state.sample(rows, valid)
        return state
