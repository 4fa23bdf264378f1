# Copyright (c) mmcropr contributors.
"""What reducers do to a :class:`TokenState`. Notation: see
``token_state.py``."""
from typing import Optional

import torch
from torch import Tensor

from .records import Decision
from .rows import Numbers, flat_rows, prefixed, select_rows, take_flat
from .steps import (Decide, Merge, Mix, Prune, PrunedTokens, Sample, Step,
                    check_order)


class Reductions:
    """The part of :class:`TokenState` that makes it smaller: each method
    changes tokens, sizes and mask, and notes the step that undoes it.

    Any order is right or refused at once; shapes are checked first, and
    after an error nothing has changed.
    """

    def _check(self, what: str, tensor: Tensor, *sizes: int) -> None:
        """Raise a ValueError unless a tensor has the shape (B, *sizes), -1
        for any number."""
        shape, expected = tuple(tensor.shape), (self.x.shape[0], *sizes)
        if len(shape) != len(expected) or any(
                b not in (-1, a) for a, b in zip(shape, expected)):
            raise ValueError(
                f'{what} must be {expected} (-1: any number) for '
                f'{self.num_current} current patches, without the '
                f'{self.num_prefix} prefix tokens, got {shape}.')

    def _check_order(self, kind: type) -> None:
        check_order(kind, [type(step) for step in self.steps])

    def _append(self, step: Step) -> None:
        if not self.steps or not self.steps[-1].absorb(step):
            self.steps.append(step)

    def _take(self, rows: Tensor) -> None:
        """Keep the patches of some rows (B, M), and all prefix tokens."""
        rows = prefixed(rows, self.num_prefix)
        self._take_flat(flat_rows(rows, self.length))

    def _take_flat(self, rows: Tensor) -> None:
        """Keep rows of the flattened batch, those of prefix tokens included.
        """
        batch = self.x.shape[0]
        self.x = take_flat(self.x, rows)
        if 'table' in self.cache:
            self.cache['table'] = take_flat(self.cache['table'], rows)
        if self.size is not None:
            self.size = self.size.flatten()[rows].view(batch, -1)
        if self.mask is not None:
            self.mask = self.mask.flatten()[rows].view(batch, -1)

    def _numbers(self) -> Numbers:
        """Constants, made once per forward pass, when they are first needed.
        """
        total = self.x.shape[0] * self.length
        numbers = self.cache.get('numbers')
        if numbers is None or numbers.order.shape[0] < total:
            numbers = Numbers.up_to(total, self.x.device)
            self.cache['numbers'] = numbers
        return numbers

    def prune(self, scores: Tensor, length: int) -> None:
        """Keep the patches with the highest scores, and all prefix tokens.

        Places that only fill up (:meth:`sample`) leave before any patch.

        Args:
            scores: One per current patch, (B, K).
            length: Tokens that stay, prefix tokens included.

        Raises:
            ValueError: If no patch would stay, more than there are, or the
                scores have another shape, or after :meth:`decide`.
        """
        self._check('scores', scores, self.num_current)
        num_prefix, num_keep = self.num_prefix, length - self.num_prefix
        if not 0 < num_keep <= scores.shape[1]:
            raise ValueError(
                f'cannot keep {length} of {self.length} tokens with '
                f'{num_prefix} prefix tokens among them: at least 1 and at '
                f'most {scores.shape[1]} patches can stay.')
        if num_keep == scores.shape[1]:
            return
        self._check_order(Prune)
        if self.mask is not None:
            scores = scores.masked_fill(~self.mask[:, num_prefix:], -torch.inf)
        last = self.steps[-1] if len(self.steps) > 0 else None
        chain = last if isinstance(last, Prune) else None
        found = select_rows(scores, num_keep, num_prefix, self._numbers(),
                            None if chain is None else chain.kept)
        pruned = PrunedTokens(
            take_flat(self.x, found.pruned), found.pruned_origin, self.module)
        if chain is not None:
            chain.follow(found.kept_origin, pruned)
        else:
            self._append(Prune(found.kept, pruned, num_prefix,
                               scores.shape[1], self.index))
        self._take_flat(found.kept)

    def sample(self, rows: Tensor, valid: Tensor) -> None:
        """Keep some patches of every image, up to M; the rest leaves.

        Args:
            rows: Which current patches stay, (B, M), and anything where not
                ``valid``.
            valid: Which of the M are real, (B, M). A valid row is there only
                once.

        Raises:
            ValueError: If the two differ in shape, or after :meth:`decide`.
        """
        self._check('rows', rows, -1)
        self._check('valid', valid, rows.shape[1])
        self._check_order(Sample)
        length, (batch, count) = self.num_current, rows.shape
        places = torch.arange(count, device=rows.device).expand(batch, -1)
        slots = rows.new_full((batch, length + 1), -1)
        slots = slots.scatter(1, torch.where(valid, rows, length), places)
        index = self.raster_index().gather(1, rows)
        self._append(
            Sample(slots[:, :length], self.patches, self.module, index))
        self._take(rows)
        prefix = torch.ones_like(valid[:, :1]).expand(-1, self.num_prefix)
        self.mask = torch.cat([prefix, valid], dim=1)

    def decide(self, keep: Tensor, length: int) -> None:
        """Let patches leave by a decision that learns: all tokens stay in the
        sequence, for the gradient, but those that left count for no other
        token from now on.

        Args:
            keep: 1 for the patches that stay, 0 for the others, (B, K), of
                those that are left; what left before stays away.
            length: Tokens that shall stay, prefix tokens included; the
                auxiliary head learns their share.

        Raises:
            ValueError: If ``keep`` has another shape.
        """
        self._check('keep', keep, self.num_current)
        self._check_order(Decide)
        before = self.keep
        keep = before * keep
        self._append(
            Decide(self.patches, before, keep, self.module, self.index))
        prefix = keep.new_ones(keep.shape[0], self.num_prefix)
        self.mask = torch.cat([prefix, keep], dim=1)
        share = (length - self.num_prefix) / self.num_current
        self.records.append(Decision(keep, share))

    def merge(self,
              patches: Tensor,
              slots: Tensor,
              index: Tensor,
              size: Optional[Tensor] = None) -> None:
        """Replace the patches by fewer, each standing for some of them.

        Args:
            patches: The new ones, (B, M, D).
            slots: Which of the M every current patch goes to, (B, K).
            index: Which current patch stands for each new one, (B, M).
            size: How many tokens each new one stands for, (B, M). None adds
                up what the current ones stand for, where they do.

        Raises:
            ValueError: If one of them has another shape, or after
                :meth:`sample` or :meth:`decide`.
        """
        self._check('patches', patches, -1, self.x.shape[2])
        self._check('slots', slots, self.num_current)
        self._check('index', index, patches.shape[1])
        self._check_order(Merge)
        self._append(Merge(slots, self.raster_index().gather(1, index)))
        if self.size is not None or size is not None:
            self.size = self._sizes(slots, patches.shape[1], size)
        self._replace(patches)

    def _sizes(self, slots: Tensor, count: int,
               size: Optional[Tensor]) -> Tensor:
        if size is None:
            size = self.size.new_zeros(slots.shape[0], count).scatter_add(
                1, slots, self.size[:, self.num_prefix:])
        prefix = size.new_ones(size.shape[0], self.num_prefix)
        return torch.cat([prefix, size], dim=1)

    def mix(self, patches: Tensor, weights: Tensor) -> None:
        """Replace the patches by fewer mixtures of them, which count once
        each.

        Args:
            patches: The new ones, (B, M, D).
            weights: Shares of the current patches in them, (B, M, K). A new
                patch is at the place of the one with the largest share.

        Raises:
            ValueError: If one of the two has another shape, or after
                :meth:`sample` or :meth:`decide`.
        """
        self._check('patches', patches, -1, self.x.shape[2])
        self._check('weights', weights, patches.shape[1], self.num_current)
        self._check_order(Mix)
        weights = weights.detach()
        index = self.raster_index().gather(1, weights.argmax(2))
        self._append(Mix(weights, index))
        self.size = None
        self._replace(patches)

    def _replace(self, patches: Tensor) -> None:
        self.cache.pop('table', None)
        self.x = torch.cat([self.x[:, :self.num_prefix], patches], dim=1)
