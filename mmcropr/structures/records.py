# Copyright (c) mmcropr contributors.
"""What reducers leave on the way. Notation: see ``token_state.py``."""
from typing import NamedTuple, Optional

from torch import Tensor


class Route(NamedTuple):
    """What a reducer leaves for its auxiliary head in training.

    ``logits`` (B, Q, M) are the scores of Q queries for all M = P + K tokens,
    (B, heads, Q, M) in several heads, ``tokens`` (B, M, D) are those tokens,
    without gradient to the backbone.
    """
    logits: Tensor
    tokens: Tensor


class Decision(NamedTuple):
    """What a reducer that learns by deciding leaves for its auxiliary head in
    training: ``keep`` (B, N), 1 where a patch of the grid stays and 0 where
    it does not, with a gradient, and the ``share`` of the patches that shall
    stay."""
    keep: Tensor
    share: float


class Pruned(NamedTuple):
    """Patches that left at one step: ``tokens`` (B, R, D) as they were then,
    ``index`` (B, R) their places in raster order, ``module`` which reducer
    they left at. After merging a token stands for several patches of the
    grid: ``source`` (B, N) then says which of the R each one is in, -1 for
    none of them. Where a decision with a gradient made them leave, ``left``
    (B, N) is 1 for those that did and 0 for the others."""
    tokens: Tensor
    index: Tensor
    module: int
    source: Optional[Tensor] = None
    left: Optional[Tensor] = None
