# Copyright (c) mmcropr contributors.
"""The token sequence on its way through a token-reducing ViT.

Notation: B images, P prefix tokens (class token, registers), N = h * w
patches of the grid, K patches that are still there, R that leave at one step,
D channels.
"""
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple, Union

import torch
from torch import Tensor
from torch.nn import functional as F

from .attention import BlockAttention
from .origin import Origin
from .records import Decision, Route
from .reductions import Reductions
from .steps import Prune, Step


@dataclass(eq=False, repr=False)
class TokenState(Reductions):
    """Tokens between two blocks, and how they became so few.

    Args:
        x: Current tokens (B, P + K, D), prefix first.
        origin: What they were made of.
        steps: What was done to them since all were there, in order.
        history: Steps that :meth:`restore` has undone.
        size: How many tokens each current one stands for, prefix first,
            (B, P + K); None where all count once.
        proportional: Whether each counts as many times in attention.
        mask: Which current tokens count, prefix first, (B, P + K): nothing
            attends to the others. Booleans where places fill up, in training
            of methods that decide 0 or 1 with a gradient; None where all do.
        num_queries: Queries that :meth:`join` has put behind the prefix.
        allowed: Which tokens (rows) may attend to which, (B, M, M) of
            booleans for M tokens; None where all may attend to all.
        records: What auxiliary heads learn from, in training.
        attention: Of the block just run, for a reducer that needs it.
        module: Number of the reducer at work.
        finished: Whether the last block has run.
        cache: What is worth keeping from module to module, by name.
    """
    x: Tensor
    origin: Origin
    steps: List[Step] = field(default_factory=list)
    history: List[Step] = field(default_factory=list)
    size: Optional[Tensor] = None
    proportional: bool = True
    mask: Optional[Tensor] = None
    num_queries: int = 0
    allowed: Optional[Tensor] = None
    records: List[Union[Route, Decision]] = field(default_factory=list)
    attention: Optional[BlockAttention] = None
    module: int = 0
    finished: bool = False
    cache: Dict[str, Any] = field(default_factory=dict)

    @property
    def grid(self) -> Tuple[int, int]:
        """Patches per column and row (h, w)."""
        return self.origin.grid

    @property
    def num_prefix(self) -> int:
        """Tokens in front of the patches: P, and queries that joined."""
        return self.origin.num_prefix + self.num_queries

    @property
    def image(self) -> Tensor:
        """As embedded, padded to whole patches, (B, C, H, W)."""
        return self.origin.image

    @property
    def image_size(self) -> Tuple[int, int]:
        """Height and width before that padding, in pixels."""
        return self.origin.image_size

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

    @property
    def patches(self) -> Tensor:
        """The current patches, (B, K, D)."""
        return self.x[:, self.num_prefix:]

    @property
    def index(self) -> Optional[Tensor]:
        """Raster index (B, K) of every current patch; None while all N are
        there. Ascending, unless patches were merged: then a merged token is
        at the place of the patch that stands for it."""
        return self.steps[-1].index if self.steps else None

    @property
    def index_is_trivial(self) -> bool:
        """Whether all N patches are there (:attr:`index` is None)."""
        if len(self.steps) == 0:
            return True
        last = self.steps[-1]
        return not isinstance(last, Prune) and last.index is None

    def rows_of(self, table: Tensor) -> Tensor:
        """Rows (B, K, R) of the current patches in a table (N, R) of all; the
        same table whenever it is called. A prune takes them along with its
        tokens, so that nothing is looked up again."""
        rows = self.cache.get('table')
        if rows is None:
            rows = F.pad(table[self.raster_index()],
                         (0, 0, self.num_prefix, 0))
            self.cache['table'] = rows
        return rows[:, self.num_prefix:]

    def raster_index(self) -> Tensor:
        """:attr:`index`, never None."""
        if self.index is not None:
            return self.index
        order = torch.arange(self.num_patches, device=self.x.device)
        return order.expand(self.x.shape[0], -1)

    @property
    def keep(self) -> Tensor:
        """Which current patches count, (B, K): 1 or 0, after decisions with
        a gradient."""
        if self.mask is None:
            return self.x.new_ones(self.x.shape[0], self.num_current)
        return self.mask[:, self.num_prefix:].to(
            self.mask.dtype if self.mask.is_floating_point() else self.x.dtype)

    def full(self) -> Tensor:
        """All tokens (B, P + N, D), patches in raster order: the current ones
        as they are, those that left as they were when they left, merged ones
        as the token they are in."""
        x = self.x
        for step in reversed(self.steps):
            x = step.undo(x, self.num_prefix)
        return x

    def restore(self) -> 'TokenState':
        """Put every token back in its place (:meth:`full`)."""
        self.x = self.full()
        self.history, self.steps = self.history + self.steps, []
        self.size = self.mask = None
        self.cache.pop('table', None)
        return self

    def join(self, queries: Tensor) -> 'TokenState':
        """Put every token back, and queries between the prefix tokens and the
        patches: (B, P + Q + N, D), for the remaining blocks (EoMT, CVPR
        2025). From now on they count as prefix tokens.

        Args:
            queries: The same for every image, (Q, D).
        """
        prefix, patches = self.restore().x.tensor_split([self.num_prefix], 1)
        joined = queries.to(patches.dtype).expand(patches.shape[0], -1, -1)
        self.x = torch.cat([prefix, joined, patches], dim=1)
        self.num_queries += queries.shape[0]
        return self

    def fuse(self) -> Tensor:
        """Last Layer Fusion (Token Cropr, CVPR 2025): all tokens, remaining
        blocks, final norm -> feature map (B, D, h, w)."""
        return self.to_map(self.restore().finish())

    def finish(self) -> Tensor:
        """Current tokens (B, P + K, D) after the remaining blocks and the
        final norm of the backbone that this state comes from."""
        return self.origin.norm(self.finish_block())

    def finish_block(self) -> Tensor:
        """Current tokens (B, P + K, D) after the remaining blocks, not
        normalised.

        Raises:
            RuntimeError: If this state comes from no backbone.
        """
        if not self.origin.rest:
            raise RuntimeError('this TokenState comes from no backbone, so '
                               'there is no last block to run.')
        for run in self.origin.rest:
            run(self)
        self.finished = True
        return self.x

    def to_map(self, tokens: Tensor) -> Tensor:
        """Full sequence (B, P + N, D) -> feature map (B, D, h, w),
        contiguous, as the ops of mmcv need it (open-mmlab/mmcv#2203)."""
        patches = tokens[:, self.num_prefix:].transpose(1, 2).contiguous()
        return patches.view(tokens.shape[0], -1, *self.grid)

    def trace(self) -> Tuple[Tensor, Tensor]:
        """Where every patch of the grid is: which current patch it is in, -1
        if it left, and the module that it left at, -1 if it did not; both
        (B, N). After :meth:`restore` as before it."""
        order = torch.arange(self.num_patches, device=self.x.device)
        slots = order.expand(self.x.shape[0], -1)
        removed = torch.full_like(slots, -1)
        for step in self.history + self.steps:
            slots, removed = step.trace(slots, removed)
        return slots, removed

    def removal_map(self) -> Tensor:
        """Where every patch left: (B, h, w) of module numbers, -1 where it
        stayed to the end."""
        return self.trace()[1].view(-1, *self.grid)

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
