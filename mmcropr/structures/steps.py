# Copyright (c) mmcropr contributors.
"""What can be done to the tokens of a :class:`TokenState`, and how to undo it.

Notation: see ``token_state.py``. A step has K patches before it and M after
it; rows and slots count these, not the patches of the grid. ``index`` is the
raster index (B, M) of the patches after it, None for all in raster order.

A new way to reduce is one class here: what it does with places (``index``,
:meth:`Step.trace`), its :meth:`Step.undo`, and what it cannot follow.
"""
from abc import ABC, abstractmethod
from typing import Dict, NamedTuple, Optional, Sequence, Tuple, Type

import torch
from torch import Tensor

from mmcropr.utils.precision import at_least_float32, without_autocast

from .rows import prefixed, take_rows


class Step(ABC):
    """One change of the token sequence.

    Attributes:
        lazy: Whether patches that leave stay in the sequence, masked.
        cannot_follow: Steps after which it would be wrong, and why.
    """

    lazy: bool = False
    cannot_follow: Dict[str, str] = {}
    index: Optional[Tensor]

    def absorb(self, step: 'Step') -> bool:
        """Take in the step that follows, so that both are undone at once;
        whether that was possible."""
        return False

    @abstractmethod
    def undo(self, x: Tensor, num_prefix: int) -> Tensor:
        """Tokens (B, P + M, D) after this step -> (B, P + K, D) before it:
        those that stayed as they are now, those that left as they were."""

    @abstractmethod
    def trace(self, slots: Tensor,
              removed: Tensor) -> Tuple[Tensor, Tensor]:
        """Follow the patches of the grid through this step.

        Args:
            slots: Which of the K every patch is in, -1 if it left, (B, N).
            removed: At which module it left, -1 if it did not, (B, N).

        Returns:
            Both after this step, ``slots`` of the M.
        """


def check_order(kind: Type[Step], before: Sequence[Type[Step]]) -> None:
    """Raise a ValueError if a kind of step cannot follow others."""
    for other in before:
        reason = kind.cannot_follow.get(other.__name__)
        if reason:
            raise ValueError(f'{kind.__name__} cannot follow '
                             f'{other.__name__}: {reason}.')


def _places(rows: Tensor, values: Tensor, length: int) -> Tensor:
    """(B, length) with ``values`` (B, n) at ``rows`` (B, n), else -1."""
    empty = rows.new_full((rows.shape[0], length), -1)
    return empty.scatter(1, rows, values.expand_as(rows))


def _look_up(table: Tensor, slots: Tensor) -> Tensor:
    """Values of a ``table`` (B, K) at slots (B, N), -1 for slot -1."""
    return torch.where(slots >= 0, table.gather(1, slots.clamp(min=0)), slots)


IN_SEQUENCE = {
    'Decide': 'in training, patches that were decided against are still in '
              'the sequence, for the gradient of the decision'
}  # yapf: disable
FILLED_UP = {
    'Sample': 'images keep different numbers of patches, and the places that '
              'fill up belong to none'
}  # yapf: disable


class PrunedTokens(NamedTuple):
    """Patches pruned together: ``tokens`` (B, R, D) as they were then, their
    ``rows`` (B * R, ) before the step, and the ``module`` they left at."""
    tokens: Tensor
    rows: Tensor
    module: int


class Prune(Step):
    """Patches leave. Prunes that follow each other are one step, which one
    scatter undoes. Rows are those of the flattened batch (B * (P + K), D), as
    of :func:`~mmcropr.structures.rows.select_rows`.

    Args:
        kept: Rows of the tokens that stay, ascending, (B * (P + M), ).
        pruned: Those that leave.
        num_prefix, length: P and K.
        before: ``index`` before this step.
    """

    cannot_follow = IN_SEQUENCE

    def __init__(self, kept: Tensor, pruned: PrunedTokens, num_prefix: int,
                 length: int, before: Optional[Tensor]) -> None:
        self.kept, self.pruned = kept, [pruned]
        self.num_prefix, self.length, self.before = num_prefix, length, before
        self._index: Optional[Tensor] = None

    @property
    def index(self) -> Tensor:
        if self._index is None:
            places = self._places_of(self.kept, self.num_prefix)
            self._index = places if self.before is None else (
                self.before.gather(1, places))
        return self._index

    def _places_of(self, rows: Tensor, skip: int = 0) -> Tensor:
        """Rows -> which of the K patches they are, by image, (B, n); ``skip``
        leaves out the first of every image."""
        batch = self.pruned[0].tokens.shape[0]
        rows = rows.view(batch, -1)[:, skip:]
        first, length = self.num_prefix, self.num_prefix + self.length
        return rows - torch.arange(
            first, batch * length, length, device=rows.device)[:, None]

    def follow(self, kept: Tensor, pruned: PrunedTokens) -> None:
        """Take in a prune that follows, its rows being those before this
        step."""
        self.pruned.append(pruned)
        self.kept, self._index = kept, None

    def undo(self, x: Tensor, num_prefix: int) -> Tensor:
        parts, (batch, _, dim) = self.pruned, x.shape
        rows = torch.cat([self.kept, *(part.rows for part in parts)])
        tokens = [x, *(part.tokens.to(x.dtype) for part in parts)]
        tokens = torch.cat([part.reshape(-1, dim) for part in tokens])
        full = x.new_empty(batch * (num_prefix + self.length), dim)
        return full.index_copy(0, rows, tokens).view(batch, -1, dim)

    def trace(self, slots: Tensor,
              removed: Tensor) -> Tuple[Tensor, Tensor]:
        for part in self.pruned:
            rows = self._places_of(part.rows)
            modules = torch.full_like(rows, part.module)
            pruned = _look_up(_places(rows, modules, self.length), slots)
            removed = torch.where(pruned >= 0, pruned, removed)
        rows = self._places_of(self.kept, self.num_prefix)
        order = torch.arange(rows.shape[1], device=slots.device)
        return _look_up(_places(rows, order, self.length), slots), removed


class Sample(Step):
    """Every image keeps as many patches as it wants, up to M.

    Args:
        slots: Which of the M every patch becomes, -1 if it leaves, (B, K).
        tokens: The patches before, (B, K, D).
        module: Which reducer this is.
        index: As of every step; anything at places that fill up.
    """

    cannot_follow = IN_SEQUENCE

    def __init__(self, slots: Tensor, tokens: Tensor, module: int,
                 index: Tensor) -> None:
        self.slots, self.tokens, self.module = slots, tokens, module
        self.index = index

    def undo(self, x: Tensor, num_prefix: int) -> Tensor:
        prefix, patches = x.tensor_split([num_prefix], dim=1)
        stays = (self.slots >= 0)[..., None]
        rows = take_rows(patches, self.slots.clamp(min=0))
        patches = torch.where(stays, rows, self.tokens.to(x.dtype))
        return torch.cat([prefix, patches], dim=1)

    def trace(self, slots: Tensor,
              removed: Tensor) -> Tuple[Tensor, Tensor]:
        after = _look_up(self.slots, slots)
        pruned = (slots >= 0) & (after < 0)
        return after, torch.where(pruned, self.module, removed)


class Decide(Step):
    """Patches leave by a decision that learns: all stay in the sequence, for
    the gradient (training only). Decisions that follow each other are one
    step.

    Args:
        tokens: The patches, (B, K, D).
        before: 1 for those that were there before, 0 for others, (B, K).
        keep: 1 for those that stay, 0 for others, with a gradient, (B, K).
        module: Which reducer this is.
        index: As of every step.
    """

    lazy = True
    cannot_follow: Dict[str, str] = {}

    def __init__(self, tokens: Tensor, before: Tensor, keep: Tensor,
                 module: int, index: Optional[Tensor]) -> None:
        self.keep, self.index = keep, index
        self.pruned = [(tokens, before - keep, module)]

    def absorb(self, step: Step) -> bool:
        if not isinstance(step, Decide):
            return False
        self.keep = step.keep
        self.pruned += step.pruned
        return True

    def undo(self, x: Tensor, num_prefix: int) -> Tensor:
        prefix, patches = x.tensor_split([num_prefix], dim=1)
        patches = patches * self.keep[..., None].to(patches.dtype)
        for tokens, pruned, _ in self.pruned:
            patches = patches + pruned[..., None].to(patches.dtype) * tokens
        return torch.cat([prefix, patches], dim=1)

    def trace(self, slots: Tensor,
              removed: Tensor) -> Tuple[Tensor, Tensor]:
        for _, pruned, module in self.pruned:
            numbers = torch.where(pruned.detach() > 0, module, -1)
            pruned = _look_up(numbers, slots)
            removed = torch.where(pruned >= 0, pruned, removed)
        stays = self.keep.detach() > 0
        order = torch.arange(stays.shape[1], device=slots.device)
        return _look_up(torch.where(stays, order, -1), slots), removed


class Merge(Step):
    """Every patch goes into one of fewer tokens. Merges that follow each
    other are one step.

    Args:
        slots: Which of the M every patch goes to, (B, K).
        index: As of every step: the places of the patches that stand for
            the new ones.
    """

    cannot_follow = {**IN_SEQUENCE, **FILLED_UP}

    def __init__(self, slots: Tensor, index: Tensor) -> None:
        self.slots, self.index = slots, index

    def absorb(self, step: Step) -> bool:
        if not isinstance(step, Merge):
            return False
        self.slots = step.slots.gather(1, self.slots)
        self.index = step.index
        return True

    def undo(self, x: Tensor, num_prefix: int) -> Tensor:
        return take_rows(x, prefixed(self.slots, num_prefix))

    def trace(self, slots: Tensor,
              removed: Tensor) -> Tuple[Tensor, Tensor]:
        return _look_up(self.slots, slots), removed


class Mix(Step):
    """Mixtures take the place of all patches. Mixtures of mixtures are one
    step. Undone, a patch is the mean of all mixtures by its shares in them,
    the plain one if it has none; traced, it is where its share is largest.

    Args:
        weights: Shares of the patches in the mixtures, (B, M, K). In float32
            from here on: few of thousands are within half precision.
        index: As of every step: the places of the largest shares.
    """

    cannot_follow = {**IN_SEQUENCE, **FILLED_UP}

    def __init__(self, weights: Tensor, index: Tensor) -> None:
        self.weights, self.index = at_least_float32(weights), index

    def absorb(self, step: Step) -> bool:
        if not isinstance(step, Mix):
            return False
        dtype = torch.promote_types(step.weights.dtype, self.weights.dtype)
        with without_autocast(self.weights):
            self.weights = step.weights.to(dtype) @ self.weights.to(dtype)
        self.index = step.index
        return True

    def undo(self, x: Tensor, num_prefix: int) -> Tensor:
        prefix, patches = x.tensor_split([num_prefix], dim=1)
        weights = self.weights + torch.finfo(torch.float32).tiny
        shares = weights / weights.sum(1, keepdim=True)
        patches = shares.transpose(1, 2).to(patches.dtype) @ patches
        return torch.cat([prefix, patches], dim=1)

    def trace(self, slots: Tensor,
              removed: Tensor) -> Tuple[Tensor, Tensor]:
        return _look_up(self.weights.argmax(1), slots), removed
