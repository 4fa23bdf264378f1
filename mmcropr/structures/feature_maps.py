# Copyright (c) mmcropr contributors.
from typing import Any, Optional

from .token_state import TokenState


class FeatureMaps(tuple):
    """A tuple of feature maps (B, C_i, h_i, w_i) that carries the
    :class:`TokenState` they come from as ``state``."""

    state: Optional[TokenState]

    def __new__(cls, maps: Any, state: Optional[TokenState] = None) -> Any:
        self = super().__new__(cls, maps)
        self.state = state
        return self
