# Copyright (c) mmcropr contributors.
"""What reducers leave for auxiliary heads. Notation: see
``token_state.py``."""
from typing import NamedTuple

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
    training: ``keep`` (B, K), 1 where a patch stays and 0 where it does not,
    with a gradient, and the ``share`` of the patches that shall stay."""
    keep: Tensor
    share: float
