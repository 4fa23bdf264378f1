# Copyright (c) mmcropr contributors.
"""The token sequence on its way through a token-reducing ViT.

All index arithmetic of the package is here. Notation: B images, P prefix
tokens (class token, registers), N = h * w patches of the grid, K patches that
are still there, R that leave at one step, D channels.
"""
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor


class Route(NamedTuple):
    """What a reducer leaves for its auxiliary head in training.

    ``logits`` (B, Q, M) are the scores of Q queries for all M = P + K tokens,
    ``tokens`` (B, M, D) are those tokens, without gradient to the backbone.
    """
    logits: Tensor
    tokens: Tensor


class Pruned(NamedTuple):
    """Patches that left at one step: ``tokens`` (B, R, D) as they were then,
    ``index`` (B, R) their places in raster order, ``module`` which reducer
    they left at. After merging a token stands for several patches of the
    grid: ``source`` (B, N) then says which of the R each one is in, -1 for
    none of them."""
    tokens: Tensor
    index: Tensor
    module: int
    source: Optional[Tensor] = None


def split_lowest(scores: Tensor, num_keep: int) -> Tuple[Tensor, Tensor]:
    """Positions of the ``num_keep`` highest scores, and of the others.

    The lowest are found by a partial selection; the rest keep their order, so
    nothing is sorted and the two parts are disjoint whatever the ties.

    Args:
        scores: (B, K), any float type.
        num_keep: How many stay, 0 < ``num_keep`` < K.

    Returns:
        kept (B, num_keep), ascending, and pruned (B, K - num_keep).
    """
    batch, length = scores.shape
    pruned = scores.topk(length - num_keep, largest=False, sorted=False)[1]
    stays = torch.ones_like(scores, dtype=torch.bool)
    stays = stays.scatter(1, pruned, False)
    # The n-th token that stays goes to slot n; those that leave share a last
    # slot that is cut off. Shapes depend on numbers only, never on values.
    slot = torch.where(stays, stays.cumsum(1) - 1, num_keep)
    order = torch.arange(length, device=scores.device).expand(batch, -1)
    kept = order.new_zeros(batch, num_keep + 1).scatter(1, slot, order)
    return kept[:, :num_keep], pruned


def take_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Rows ``rows`` (B, n) of ``x`` (B, M, D), whole rows at a time."""
    batch, length, dim = x.shape
    if batch == 1:
        return x[0].index_select(0, rows[0])[None]
    start = torch.arange(batch, device=x.device)[:, None] * length
    flat = x.reshape(-1, dim).index_select(0, (rows + start).flatten())
    return flat.view(batch, -1, dim)


def put_rows(x: Tensor, rows: Tensor, length: int) -> Tensor:
    """Inverse of :func:`take_rows`: ``x`` (B, n, D) spread over a sequence of
    ``length`` = n rows, ``rows`` (B, n) being a permutation."""
    batch, _, dim = x.shape
    start = torch.arange(batch, device=x.device)[:, None] * length
    flat = x.new_empty(batch * length, dim)
    flat = flat.index_copy(0, (rows + start).flatten(), x.reshape(-1, dim))
    return flat.view(batch, length, dim)


def _follow(source: Tensor, rows: Tensor, length: int) -> Tensor:
    """``source`` (B, N) into a sequence of ``length`` -> into its selected
    ``rows`` (B, n); -1 where a patch is in none of these."""
    places = torch.arange(rows.shape[1], device=rows.device)
    new = rows.new_full((len(rows), length), -1)
    new = new.scatter(1, rows, places.expand(len(rows), -1))
    return torch.where(source >= 0, new.gather(1, source.clamp(min=0)), source)


@dataclass(eq=False, repr=False)
class TokenState:
    """Tokens between two blocks, and what left before.

    Args:
        x: Current tokens (B, P + K, D), prefix first.
        grid: Patches per column and row (h, w).
        num_prefix: P.
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
        size: How many tokens each current one stands for in attention,
            prefix first, (B, P + K); None where all count once.
        mask: Which current tokens are real, prefix first, (B, P + K), where
            images keep different numbers; the others fill up and nothing
            attends to them. None where all are.
        pruned: What left, step by step.
        routes: What auxiliary heads learn from, in training.
        stats: Statistics of the block just run, and values worth keeping.
        module: Number of the reducer at work.
        readers: Names of the auxiliary heads that used the routes.
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
    mask: Optional[Tensor] = None
    pruned: List[Pruned] = field(default_factory=list)
    routes: List[Route] = field(default_factory=list)
    stats: Dict[str, Any] = field(default_factory=dict)
    module: int = 0
    readers: List[str] = field(default_factory=list)

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

    def prune(self, scores: Tensor, length: int) -> None:
        """Keep the patches with the highest scores, and all prefix tokens.

        Args:
            scores: One per current patch, (B, K).
            length: Tokens that stay, prefix tokens included.

        Raises:
            ValueError: If no patch would stay, or more than there are.
        """
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
            source = _follow(self.source, left, scores.shape[1])
            self.source = _follow(self.source, kept, scores.shape[1])
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
        """
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

    def merge(self, patches: Tensor, slots: Tensor, index: Tensor) -> None:
        """Replace the patches by fewer, each standing for some of them.

        Args:
            patches: The new ones, (B, M, D).
            slots: Which of the M every current patch goes to, (B, K).
            index: Which current patch stands for each new one, (B, M).
        """
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
        """
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

    def full(self) -> Tensor:
        """All tokens (B, P + N, D), patches in raster order: the current ones
        as they are, those that left as they were when they left, merged ones
        as the token they are in."""
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
            "(in a list of necks: first); or set out_type='featmap'.")

    def __getitem__(self, item: Any) -> Tensor:
        raise self._not_a_map()

    def __iter__(self) -> Any:
        raise self._not_a_map()

    def __len__(self) -> int:
        raise self._not_a_map()

    def __bool__(self) -> bool:
        return True


class FeatureMaps(tuple):
    """A tuple of feature maps (B, C_i, h_i, w_i) that carries the
    :class:`TokenState` they come from as ``state``."""

    state: Optional[TokenState]

    def __new__(cls, maps: Any, state: Optional[TokenState] = None) -> Any:
        self = super().__new__(cls, maps)
        self.state = state
        return self
