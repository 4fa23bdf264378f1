# Copyright (c) mmcropr contributors.
"""What the attention of a block made of its tokens, for reducers that ask.
Notation: see ``token_state.py``; H heads of d channels."""
from dataclasses import dataclass
from typing import Callable, Optional

from torch import Tensor


@dataclass(eq=False, repr=False)
class BlockAttention:
    """Queries, keys and values of the block just run.

    Queries and keys are those that the block's own (fused) attention used;
    all else is computed when it is asked for, and no (M, M) matrix is ever
    whole.

    Args:
        query: Without position, (B, H, M, d).
        key: Without position; (B, H_k, M, d), where several heads can share
            one.
        scale: Of the logits.
        num_prefix: P.
        rotate: Gives queries or keys their rotary embedding.
        project_values: Gives the values, (B, M, H_k * d).
        bias: Added to all logits, (B, 1, 1, M), or None: sizes and filling.
    """
    query: Tensor
    key: Tensor
    scale: float
    num_prefix: int
    rotate: Callable[[Tensor], Tensor]
    project_values: Callable[[], Tensor]
    bias: Optional[Tensor] = None

    def queries(self) -> Tensor:
        """With position, (B, H, M, d)."""
        return self.rotate(self.query)

    def keys(self) -> Tensor:
        """With position, (B, H, M, d)."""
        return self._for_all_heads(self.rotate(self.key))

    def values(self) -> Tensor:
        """(B, H, M, d)."""
        values = self.project_values().unflatten(
            -1, (-1, self.query.shape[-1]))
        return self._for_all_heads(values.transpose(1, 2))

    def _for_all_heads(self, x: Tensor) -> Tensor:
        """Keys or values (B, H_k, M, d), each for all heads that share it."""
        return x.repeat_interleave(self.query.shape[1] // x.shape[1], dim=1)

    def weights(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Attention (B, H, n, K) to the patches: a softmax over all tokens,
        of which the prefix is cut off.

        Args:
            queries: Some of :meth:`queries`, (B, H, n, d).
            keys: :meth:`keys`.
        """
        logits = (queries * self.scale) @ keys.transpose(-2, -1)
        logits = logits if self.bias is None else logits + self.bias
        return logits.float().softmax(-1)[..., self.num_prefix:]

    def of_class_token(self) -> Tensor:
        """The class token's attention to the patches, (B, H, K). It carries
        no position."""
        return self.weights(self.query[:, :, :1], self.keys())[:, :, 0]
