# Copyright (c) mmcropr contributors.
"""Hooks that keep what a block's attention works with. They are objects, not
closures, so that a model with them can be copied and pickled."""
from typing import Any, NamedTuple, Optional

from torch import Tensor, nn


class Tap:
    """Forward hook that keeps a module's output while it is armed.

    Args:
        detach: Whether without its gradient.
    """

    def __init__(self, detach: bool = True) -> None:
        self.armed, self.detach = False, detach
        self.value: Optional[Tensor] = None

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        if self.armed:
            self.value = output.detach() if self.detach else output

    def take(self) -> Tensor:
        value, self.value, self.armed = self.value, None, False
        return value


class InputTap(Tap):
    """Forward pre-hook that keeps a module's first input."""

    def __call__(self, module: nn.Module, args: Any) -> None:
        super().__call__(module, args, args[0])


class Taps(NamedTuple):
    """On an attention: its queries, its keys, and what it gets."""
    query: Tap
    key: Tap
    entrance: InputTap

    @classmethod
    def on(cls, attn: nn.Module, gradient: bool) -> 'Taps':
        """Hook them to an attention of timm.

        Args:
            attn: With ``q_norm`` and ``k_norm``.
            gradient: Whether queries and keys keep theirs.
        """
        taps = cls(Tap(not gradient), Tap(not gradient), InputTap())
        attn.q_norm.register_forward_hook(taps.query)
        attn.k_norm.register_forward_hook(taps.key)
        attn.register_forward_pre_hook(taps.entrance)
        return taps

    def arm(self) -> None:
        """Keep what passes next."""
        for tap in self:
            tap.armed = True
