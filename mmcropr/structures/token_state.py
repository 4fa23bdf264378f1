# Copyright (c) mmcropr contributors.
"""The token sequence on its way through a token-reducing ViT.

Notation: B images, P prefix tokens (class token, registers), N = h * w
patches of the grid, K patches that are still there, R that leave at one step,
D channels.
"""
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

import torch
from torch import Tensor

from .records import Decision, Pruned, Route
from .rows import follow_rows, put_rows, split_lowest, take_rows


@dataclass(eq=False, repr=False)
class TokenState:
    """Tokens between two blocks, and what left before.

    Args:
        x: Current tokens (B, P + K, D), prefix first.
        grid: Patches per column and row (h, w).
        num_prefix: P.
        has_class_token: Whether the first prefix token is a class token.
        image: The image as embedded (B, C, H, W), padded to whole patches.
        image_size: Height and width before that padding, in pixels.
        rope: Rotary table of the trunk in raster order, whose last but one
            axis has length N; None without rotary embeddings.
        last_block: Runs the trunk's last block over the current tokens.
        norm: The trunk's final norm.
        index: Raster index (B, K) of every current patch; None while all N
            are there. Ascending, unless patches were merged: then a merged
            token is at the place of the patch that stands for it.
        source: After merging, which current patch (B, N) every patch of the
            grid is in, -1 where it left; else None.
        mixture: After soft merging, shares (B, K, N) of the patches of the
            grid in every current one; else None.
        size: How many tokens each current one stands for, prefix first,
            (B, P + K); None where all count once.
        proportional: Whether each counts as many times in attention.
        mask: Which current tokens are real, prefix first, (B, P + K), where
            images keep different numbers; the others fill up and nothing
            attends to them. None where all are.
        policy: In training of methods that only decide, 1 for the tokens
            that stay and 0 for those that do not, prefix first, (B, P + N),
            with a gradient; all are still there, and attention goes by it.
            Else None.
        pruned: What left, step by step.
        routes: What auxiliary heads learn from, in training.
        stats: Statistics of the block just run, and values worth keeping.
        module: Number of the reducer at work.
        readers: Names of the auxiliary heads that used the routes.
        finished: Whether the last block has run.
    """
    x: Tensor
    grid: Tuple[int, int]
    num_prefix: int
    image: Tensor
    image_size: Tuple[int, int]
    rope: Optional[Tensor] = None
    last_block: Optional[Callable[['TokenState'], 'TokenState']] = None
    norm: Optional[Callable[[Tensor], Tensor]] = None
    index: Optional[Tensor] = None
    source: Optional[Tensor] = None
    mixture: Optional[Tensor] = None
    size: Optional[Tensor] = None
    proportional: bool = True
    mask: Optional[Tensor] = None
    policy: Optional[Tensor] = None
    pruned: List[Pruned] = field(default_factory=list)
    routes: List[Union[Route, Decision]] = field(default_factory=list)
    stats: Dict[str, Any] = field(default_factory=dict)
    module: int = 0
    readers: List[str] = field(default_factory=list)
    finished: bool = False
    has_class_token: bool = True

    @property
    def num_patches(self) -> int:
        """N, before any reduction."""
        return self.grid[0] * self.grid[1]

    @property
    def length(self) -> int:
        """Tokens that are there now, prefix tokens included: P + K."""
        return self.x.shape[1]

    @property
    def num_current(self) -> int:
        """Patches that are there now: K."""
        return self.length - self.num_prefix

    def raster_index(self) -> Tensor:
        """Raster index (B, K) of the current patches, never None."""
        if self.index is not None:
            return self.index
        order = torch.arange(self.num_patches, device=self.x.device)
        return order.expand(self.x.shape[0], -1)

    def _check(self, what: str, given: Tensor, *wanted: int) -> None:
        """Raise a ValueError unless a tensor has the shape (B, *wanted), -1
        for any number."""
        shape, wanted = tuple(given.shape), (len(self.x), *wanted)
        if len(shape) != len(wanted) or any(
                b not in (-1, a) for a, b in zip(shape, wanted)):
            raise ValueError(
                f'{what} must be {wanted} (-1: any number) for '
                f'{self.num_current} current patches, without the '
                f'{self.num_prefix} prefix tokens, got {shape}.')

    def prune(self, scores: Tensor, length: int) -> None:
        """Keep the patches with the highest scores, and all prefix tokens.

        Args:
            scores: One per current patch, (B, K).
            length: Tokens that stay, prefix tokens included.

        Raises:
            ValueError: If no patch would stay, more than there are, or the
                scores have another shape.
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
        kept, left = split_lowest(scores, num_keep)
        index, source = self.raster_index(), None
        if self.mixture is not None:
            raise ValueError('patches cannot be pruned after soft merging: '
                             'their shares are in all tokens.')
        if self.source is not None:
            source = follow_rows(self.source, left, scores.shape[1])
            self.source = follow_rows(self.source, kept, scores.shape[1])
        self.pruned.append(
            Pruned(
                take_rows(self.x, left + num_prefix), index.gather(1, left),
                self.module, source))
        prefix = torch.arange(num_prefix, device=kept.device)
        rows = torch.cat(
            [prefix.expand(len(kept), -1), kept + num_prefix], dim=1)
        self.x = take_rows(self.x, rows)
        self.index = index.gather(1, kept)

    def sample(self, rows: Tensor, valid: Tensor) -> None:
        """Keep some patches of every image, up to M; the rest leaves.

        Args:
            rows: Which current patches stay, (B, M), and anything where not
                ``valid``.
            valid: Which of the M are real, (B, M). A valid row is there only
                once.

        Raises:
            ValueError: If the two differ in shape.
        """
        self._check('rows', rows, -1)
        self._check('valid', valid, rows.shape[1])
        length, source = self.num_current, self._slot_of_patches()
        batch, count = rows.shape
        places = torch.arange(count, device=rows.device).expand(batch, -1)
        new = rows.new_full((batch, length + 1), -1)
        new = new.scatter(1, torch.where(valid, rows, length), places)
        there = source >= 0
        self.source = torch.where(
            there, new.gather(1, source.clamp(min=0)), source)
        left = torch.where(there & (self.source < 0), source, -1)
        patches, index = self.x[:, self.num_prefix:], self.raster_index()
        self.pruned.append(Pruned(patches, index, self.module, left))
        prefix = torch.ones_like(valid[:, :1]).expand(-1, self.num_prefix)
        self.mask = torch.cat([prefix, valid], dim=1)
        self._replace(take_rows(patches, rows), rows)

    def decide(self, keep: Tensor, share: float) -> None:
        """Let patches leave by a decision that learns: all tokens stay in the
        sequence, for the gradient, but those that left count for no other
        token from now on.

        Args:
            keep: 1 for the patches that stay, 0 for the others, (B, N), of
                those that are left; what left before stays away.
            share: Of the patches that shall stay, for the auxiliary head.

        Raises:
            ValueError: If patches were taken out of the sequence before, or
                ``keep`` has another shape.
        """
        if self.num_current != self.num_patches or self.index is not None:
            raise ValueError(
                f'a decision needs all {self.num_patches} patches in raster '
                f'order, {self.num_current} are there: other reducers cannot '
                'work before it.')
        self._check('keep', keep, self.num_patches)
        before = self.keep
        keep = before * keep
        patches = self.x[:, self.num_prefix:]
        order = torch.arange(self.num_patches, device=keep.device)
        order = order.expand(len(keep), -1)
        leaves = (before > keep).detach()
        self.pruned.append(
            Pruned(patches, order, self.module,
                   torch.where(leaves, order, -1), before - keep))
        prefix = keep.new_ones(len(keep), self.num_prefix)
        self.policy = torch.cat([prefix, keep], dim=1)
        self.routes.append(Decision(keep, share))

    @property
    def keep(self) -> Tensor:
        """Which patches are left by the decisions so far, (B, N): 1 or 0."""
        if self.policy is None:
            return self.x.new_ones(len(self.x), self.num_patches)
        return self.policy[:, self.num_prefix:]

    def merge(self, patches: Tensor, slots: Tensor, index: Tensor) -> None:
        """Replace the patches by fewer, each standing for some of them.

        Args:
            patches: The new ones, (B, M, D).
            slots: Which of the M every current patch goes to, (B, K).
            index: Which current patch stands for each new one, (B, M).

        Raises:
            ValueError: If one of them has another shape.
        """
        self._check('patches', patches, -1, self.x.shape[2])
        self._check('slots', slots, self.num_current)
        self._check('index', index, patches.shape[1])
        source = self._slot_of_patches()
        stays = source >= 0
        self.source = torch.where(
            stays, slots.gather(1, source.clamp(min=0)), source)
        self._replace(patches, index)

    def mix(self, patches: Tensor, weights: Tensor) -> None:
        """Replace the patches by fewer mixtures of them.

        Args:
            patches: The new ones, (B, M, D).
            weights: Shares of the current patches in them, (B, M, K). A new
                patch is at the place of the one with the largest share.

        Raises:
            ValueError: If patches were pruned or merged before, or one of the
                two has another shape.
        """
        self._check('patches', patches, -1, self.x.shape[2])
        self._check('weights', weights, patches.shape[1], self.num_current)
        weights = weights.detach()
        if self.mixture is not None:
            self.mixture = weights @ self.mixture
        elif self.index is None:
            self.mixture = weights
        else:
            raise ValueError('patches cannot be mixed after others were '
                             'pruned or merged.')
        self._replace(patches, weights.argmax(2))

    def _replace(self, patches: Tensor, index: Tensor) -> None:
        self.index = self.raster_index().gather(1, index)
        self.x = torch.cat([self.x[:, :self.num_prefix], patches], dim=1)

    def _slot_of_patches(self) -> Tensor:
        """Which current patch (B, N) every patch of the grid is in."""
        if self.source is not None:
            return self.source
        index = self.raster_index()
        slots = torch.arange(index.shape[1], device=index.device)
        source = index.new_full((len(index), self.num_patches), -1)
        return source.scatter(1, index, slots.expand(len(index), -1))

    def _unmerged(self) -> Tensor:
        """:meth:`full` after merging: every patch has the token it is in, and
        after soft merging the mean of all by its shares in them."""
        prefix, patches = self.x.tensor_split([self.num_prefix], dim=1)
        if self.mixture is not None:
            shares = self.mixture / self.mixture.sum(1, keepdim=True)
            spread = shares.transpose(1, 2).to(patches.dtype) @ patches
            return torch.cat([prefix, spread], dim=1)
        spread = take_rows(patches, self.source.clamp(min=0))
        for part in self.pruned:
            source = part.source
            if source is None:
                slots = torch.arange(part.index.shape[1], device=spread.device)
                source = torch.full_like(self.source, -1).scatter(
                    1, part.index, slots.expand(len(spread), -1))
            there = (source >= 0)[..., None]
            rows = take_rows(part.tokens, source.clamp(min=0))
            spread = torch.where(there, rows.to(spread.dtype), spread)
        return torch.cat([prefix, spread], dim=1)

    def _undecided(self) -> Tensor:
        """:meth:`full` after decisions, with a gradient to them."""
        prefix, patches = self.x.tensor_split([self.num_prefix], dim=1)
        patches = patches * self.keep[..., None].to(patches.dtype)
        for part in self.pruned:
            left = part.left[..., None].to(patches.dtype)
            patches = patches + left * part.tokens
        return torch.cat([prefix, patches], dim=1)

    def full(self) -> Tensor:
        """All tokens (B, P + N, D), patches in raster order: the current ones
        as they are, those that left as they were when they left, merged ones
        as the token they are in."""
        if self.policy is not None:
            return self._undecided()
        if self.source is not None or self.mixture is not None:
            return self._unmerged()
        if self.index is None:
            return self.x
        batch, num_prefix = self.x.shape[0], self.num_prefix
        prefix = torch.arange(num_prefix, device=self.x.device)
        rows = torch.cat([
            prefix.expand(batch, -1), self.index + num_prefix,
            *(part.index + num_prefix for part in self.pruned)
        ], dim=1)  # yapf: disable
        tokens = [self.x, *(p.tokens.to(self.x.dtype) for p in self.pruned)]
        return put_rows(
            torch.cat(tokens, dim=1), rows, num_prefix + self.num_patches)

    def restore(self) -> 'TokenState':
        """Put every token back in its place (:meth:`full`)."""
        self.x, self.index = self.full(), None
        self.source = self.mixture = self.size = self.mask = None
        self.policy = None
        return self

    def finish(self) -> Tensor:
        """Current tokens (B, P + K, D) after the last block and final norm
        of the backbone that this state comes from."""
        return self.norm(self.finish_block())

    def finish_block(self) -> Tensor:
        """Current tokens (B, P + K, D) after the last block, not normalised.

        Raises:
            RuntimeError: If this state comes from no backbone.
        """
        if self.last_block is None:
            raise RuntimeError('this TokenState comes from no backbone, so '
                               'there is no last block to run.')
        self.finished = True
        return self.last_block(self).x

    def to_map(self, tokens: Tensor) -> Tensor:
        """Full sequence (B, P + N, D) -> feature map (B, D, h, w),
        contiguous, as the ops of mmcv need it (open-mmlab/mmcv#2203)."""
        patches = tokens[:, self.num_prefix:].transpose(1, 2).contiguous()
        return patches.view(tokens.shape[0], -1, *self.grid)

    def removal_map(self) -> Tensor:
        """Where every patch left: (B, h, w) of module numbers, -1 where it
        stayed to the end."""
        batch = self.x.shape[0]
        flat = torch.full((batch, self.num_patches), -1, device=self.x.device)
        for part in self.pruned:
            if part.source is None:
                flat = flat.scatter(1, part.index, part.module)
            else:
                flat = torch.where(part.source >= 0, part.module, flat)
        return flat.view(batch, *self.grid)

    def _not_a_map(self) -> TypeError:
        return TypeError(
            'a head got a TokenState instead of feature maps. A backbone '
            "with out_type='tokens' needs neck=dict(type='mmcropr.LLFNeck') "
            "(in a list of necks: first), a classifier neck=dict(type="
            "'mmcropr.PoolNeck'); or set out_type='featmap'.")

    def __getitem__(self, item: Any) -> Tensor:
        raise self._not_a_map()

    def __iter__(self) -> Any:
        raise self._not_a_map()

    def __len__(self) -> int:
        raise self._not_a_map()

    def __bool__(self) -> bool:
        return True
