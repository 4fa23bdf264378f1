# Copyright (c) mmcropr contributors.
from abc import abstractmethod
from typing import Optional, Tuple, Type

from mmengine.model import BaseModule
from torch import Tensor

from mmcropr.structures import Mix, Prune, Step, TokenState


class TokenReducer(BaseModule):
    """One token reduction step; a backbone builds one per location.

    The backbone tells it the length to reach, so a reducer knows no schedule.

    Args:
        embed_dim: Channels D of the tokens.
        init_cfg: As of every mmengine module.

    Attributes:
        step_types: Steps that it takes, of ``mmcropr.structures``; says what
            can follow it, and what it can follow.
        needs_attention: Whether it asks ``state.attention`` for queries, keys
            or values of the block it works in or after.
        needs_class_token: Whether it asks for those of the class token.
        needs_gradient: Whether it needs them with their gradient.
        record_type: What it appends to ``state.records`` in training, for an
            auxiliary head to learn from: :class:`~mmcropr.structures.Route`
            or :class:`~mmcropr.structures.Decision`. None if it needs no
            such head.
        draws: Whether it draws random numbers at test time.
        stage: 'block' to act after a block, 'attention' to act inside it,
            between its attention and its MLP.
        fixed_number: Whether the number of patches that it leaves is a
            property of its weights; it then gets that of the reference grid
            as ``num_tokens`` when it is built, for images of any size.
    """

    step_types: Tuple[Type[Step], ...] = (Prune, )
    needs_attention: bool = False
    needs_class_token: bool = False
    needs_gradient: bool = False
    draws: bool = False
    record_type: Optional[type] = None
    stage: str = 'block'
    fixed_number: bool = False

    def __init__(self,
                 embed_dim: int,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(init_cfg)
        self.embed_dim = embed_dim

    def reachable_length(self, before: int, length: int,
                         num_prefix: int) -> int:
        """How many of ``before`` tokens are left where ``length`` are asked
        for, all counts with prefix tokens. That is ``length``; a reducer with
        bounds of its own says what it does. A schedule beyond them is refused
        when a model is built; on images of other sizes they hold."""
        return length

    @abstractmethod
    def forward(self, state: TokenState, length: int) -> TokenState:
        """Reduce to ``length`` tokens, prefix tokens included."""


class Idle(TokenReducer):
    """Stands where the schedule asks a reducer with ``fixed_number`` for
    nothing: weights that do no work would stop distributed training."""

    step_types = ()

    def reachable_length(self, before: int, length: int,
                         num_prefix: int) -> int:
        return before

    def forward(self, state: TokenState, length: int) -> TokenState:
        return state


class TopKPruner(TokenReducer):
    """Keeps the patches with the highest scores and prunes the rest; a
    subclass says how patches are scored."""

    @abstractmethod
    def score(self, state: TokenState) -> Tensor:
        """Importance of every current patch, (B, K)."""

    def forward(self, state: TokenState, length: int) -> TokenState:
        if length < state.length:
            state.prune(self.score(state), length)
        return state


class SoftMerger(TokenReducer):
    """Replaces the patches by a fixed number of mixtures of them, on images
    of any size (on small ones it can be more than there were); a subclass says
    how they are mixed.

    Args:
        embed_dim: Channels D of the tokens.
        num_tokens: Number M of mixtures.
        init_cfg: As of every mmengine module.
    """

    step_types = (Mix, )
    fixed_number = True

    def __init__(self,
                 embed_dim: int,
                 num_tokens: int,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(embed_dim, init_cfg)
        self.num_tokens = num_tokens

    @abstractmethod
    def mix(self, patches: Tensor) -> Tuple[Tensor, Tensor]:
        """Patches (B, K, D) -> mixtures (B, M, D) and weights (B, M, K)."""

    def reachable_length(self, before: int, length: int,
                         num_prefix: int) -> int:
        return num_prefix + self.num_tokens

    def forward(self, state: TokenState, length: int) -> TokenState:
        state.mix(*self.mix(state.patches))
        return state
