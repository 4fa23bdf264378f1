# Copyright (c) mmcropr contributors.
"""What reducers leave for auxiliary heads. Notation: see
``token_state.py``."""
from dataclasses import dataclass
from typing import List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn


@dataclass(eq=False)
class Route:
    """What a reducer leaves for its auxiliary head in training: the means to
    score all M = P + K tokens by Q queries, so that the head computes, and
    keeps for the backward pass, only what it wants.

    Args:
        tokens: (B, M, D), without gradient to the backbone, unless the
            auxiliary losses shall reach it.
        reducer: Module with ``num_queries`` and ``attend(tokens, rows)``,
            which scores tokens by the queries of these rows (Q', ), all if
            None -> logits (B, Q', M), or (B, heads, Q', M) in several heads,
            and the tokens (B, M, D) to read by them.
        mask: Which tokens count, (B, M) of booleans; None where all do.
    """
    tokens: Tensor
    reducer: nn.Module
    mask: Optional[Tensor] = None

    @property
    def num_queries(self) -> int:
        """Q."""
        return self.reducer.num_queries

    @property
    def is_local(self) -> bool:
        """Whether what is learnt from it ends at its tokens."""
        return not self.tokens.requires_grad

    def parameters(self) -> List[nn.Parameter]:
        """What learns from it in the reducer."""
        return list(self.reducer.parameters())

    def read(self, rows: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        """Logits (B, Q', M) or (B, heads, Q', M) of the queries of these rows
        (Q', ), of all Q if None, and the tokens (B, M, D) to read by them."""
        logits, tokens = self.reducer.attend(self.tokens, rows)
        if self.mask is not None:  # places that fill up: not to be read
            filling = ~self.mask[:, None]
            filling = filling if logits.dim() == 3 else filling[:, None]
            logits = logits.masked_fill(filling, -torch.inf)
        return logits, tokens


class Decision(NamedTuple):
    """What a reducer that learns by deciding leaves for its auxiliary head in
    training: ``keep`` (B, K), 1 where a patch stays and 0 where it does not,
    with a gradient, and the ``share`` of the patches that shall stay."""
    keep: Tensor
    share: float
