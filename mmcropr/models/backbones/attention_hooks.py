# Copyright (c) mmcropr contributors.
"""Hooks that keep what a block's attention works with. They are objects, not
closures, so that a model with them can be copied and pickled."""
from typing import Any, NamedTuple, Optional

from torch import Tensor, nn


class OutputHook:
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


class InputHook(OutputHook):
    """Forward pre-hook that keeps a module's first input."""

    def __call__(  # type: ignore[override]  # torch calls it with two
            self, module: nn.Module, args: Any) -> None:
        super().__call__(module, args, args[0])


class AttentionHooks(NamedTuple):
    """On an attention: of its queries, its keys, and its input."""
    query: OutputHook
    key: OutputHook
    input: InputHook

    @classmethod
    def register(cls, attn: nn.Module, gradient: bool) -> 'AttentionHooks':
        """Register them on an attention of timm.

        Args:
            attn: With ``q_norm`` and ``k_norm``.
            gradient: Whether queries and keys keep theirs.
        """
        hooks = cls(
            OutputHook(not gradient), OutputHook(not gradient), InputHook())
        attn.q_norm.register_forward_hook(hooks.query)
        attn.k_norm.register_forward_hook(hooks.key)
        attn.register_forward_pre_hook(hooks.input)
        return hooks

    def arm(self) -> None:
        """Keep what passes next."""
        for hook in self:
            hook.armed = True
