# Copyright (c) mmcropr contributors.
from typing import Any, Iterable, Optional, Tuple

from torch import Tensor

from .token_state import TokenState


class FeatureMaps(tuple):
    """A tuple of feature maps (B, C_i, h_i, w_i) that carries the
    :class:`TokenState` they come from as ``state``, and as ``prefix`` the
    prefix tokens (B, P, D) behind the block of each, if a backbone made it."""

    state: Optional[TokenState]
    prefix: Tuple[Tensor, ...]

    def __new__(cls,
                maps: Any,
                state: Optional[TokenState] = None,
                prefix: Iterable[Tensor] = ()) -> Any:
        self = super().__new__(cls, maps)
        self.state, self.prefix = state, tuple(prefix)
        return self
