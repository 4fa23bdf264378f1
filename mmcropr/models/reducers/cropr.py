# Copyright (c) mmcropr contributors.
from typing import Optional, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmcropr.registry import MODELS
from mmcropr.structures import Route, TokenState
from mmcropr.utils.precision import without_autocast

from .base import TopKPruner


@MODELS.register_module()
class Cropr(TopKPruner):
    """Prune by learned queries (Token Cropr, CVPR 2025).

    A token's score is the sum over all queries of their dot products with it.
    It is computed with the one folded query, the sum of all queries: a
    matrix-vector product, in float32 whatever the precision around it, so
    that training and inference select alike. In training the tokens go to
    the auxiliary head as a :class:`~mmcropr.structures.Route`, by which it
    reads them by all queries; the tokens are detached, so auxiliary losses
    reach the queries and never the backbone.

    Args:
        embed_dim: Channels D of the tokens.
        num_queries: Number of queries Q: 1 for classification and detection,
            one per patch of the training crop for segmentation. A backbone
            takes 'image' and 'patch' for these.
        selection: 'topk' keeps the highest scores; 'sample' draws the kept
            patches without replacement from the query's attention (an
            ablation of the paper), at test time too, from torch's global
            generator.
        stop_gradient: Whether auxiliary losses stop at the tokens; False
            lets them reach the backbone (an ablation of the paper).
        num_heads: Given, queries and normalised tokens are projected and
            attend in this many heads ("MHA", an ablation of the paper); a
            score is the sum over queries and heads. The auxiliary head then
            needs the same ``num_heads``. None is the simple form, without
            norm and projections.
        init_cfg: As of every mmengine module.

    Raises:
        ValueError: If ``num_queries`` is below 1, ``selection`` is neither,
            several queries or heads shall sample, or ``num_heads`` does not
            divide ``embed_dim``.
    """

    record_type = Route
    sign = 1.

    def __init__(self,
                 embed_dim: int,
                 num_queries: int = 1,
                 selection: str = 'topk',
                 stop_gradient: bool = True,
                 num_heads: Optional[int] = None,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(embed_dim, init_cfg)
        if selection not in ('topk', 'sample'):
            raise ValueError("selection must be 'topk' or 'sample', got "
                             f'{selection!r}')
        if selection == 'sample' and num_queries != 1:
            raise ValueError("selection='sample' draws from the attention of "
                             f'one query, got num_queries={num_queries}')
        if selection == 'sample' and num_heads not in (None, 1):
            raise ValueError("selection='sample' draws from the attention of "
                             f'one head, got num_heads={num_heads}')
        if num_heads is not None and (num_heads < 1 or embed_dim % num_heads):
            raise ValueError(f'num_heads={num_heads} does not divide the '
                             f'embed_dim={embed_dim} of the tokens.')
        self.selection, self.stop_gradient = selection, stop_gradient
        self.draws = selection == 'sample'
        if isinstance(num_queries, bool) or not isinstance(
                num_queries, int) or num_queries < 1:
            raise ValueError('num_queries must be a whole number, 1 or more '
                             "(1 or 'image' for image-level tasks, h * w or "
                             f"'patch' for segmentation), got {num_queries!r}")
        self.queries = nn.Parameter(torch.empty(num_queries, embed_dim))
        nn.init.trunc_normal_(self.queries, std=embed_dim**-.5)
        self.num_heads = num_heads
        if num_heads is not None:
            self.attn_norm = nn.LayerNorm(embed_dim, eps=1e-6)
            self.q = nn.Linear(embed_dim, embed_dim, bias=False)
            self.k = nn.Linear(embed_dim, embed_dim, bias=False)

    @property
    def num_queries(self) -> int:
        return self.queries.shape[0]

    @torch.no_grad()
    def score(self, state: TokenState) -> Tensor:
        with without_autocast(state.x):
            folded = self.queries.float()
            folded = folded.sum(0) if len(folded) > 1 else folded[0]
            folded = folded if self.sign > 0 else -folded
            tokens = state.x.float()
            if self.num_heads is not None:
                # Heads share out the channels, so their sum is one product
                norm = self.attn_norm
                folded = F.linear(folded, self.q.weight.float())
                tokens = F.layer_norm(tokens, norm.normalized_shape,
                                      norm.weight.float(), norm.bias.float(),
                                      norm.eps)
                tokens = F.linear(tokens, self.k.weight.float())
            scores = tokens @ folded
        scores = scores[:, state.num_prefix:]
        if self.selection == 'sample':
            # The highest of log-probabilities with Gumbel noise are a draw
            # without replacement (the softmax's constant changes nothing).
            noise = torch.empty_like(scores).exponential_().log()
            scores = scores / self.embed_dim**.5 - noise
        return scores

    @torch.no_grad()
    def fold(self) -> None:
        """Replace the queries by their sum: same scores, nothing to train."""
        self.queries = nn.Parameter(
            self.queries.float().sum(0, keepdim=True).to(self.queries.dtype))

    def attend(self, tokens: Tensor,
               rows: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        """Score tokens (B, M, D) by the queries.

        Args:
            tokens: (B, M, D).
            rows: Queries to score by, (Q', ); all Q if None.

        Returns:
            Logits (B, Q', M) or (B, heads, Q', M), not scaled, and the tokens
            (B, M, D) that the auxiliary head reads.
        """
        queries = self.queries
        if rows is not None:
            queries = queries.index_select(0, rows)
        if self.num_heads is None:
            return queries @ tokens.transpose(1, 2), tokens
        tokens = self.attn_norm(tokens)
        query, key = (
            x.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)
            for x in (self.q(queries), self.k(tokens)))
        return query @ key.transpose(-2, -1), tokens

    def forward(self, state: TokenState, length: int) -> TokenState:
        if self.training:
            tokens = state.x.detach() if self.stop_gradient else state.x
            state.records.append(Route(tokens, self, state.mask))
        return super().forward(state, length)


@MODELS.register_module()
class NonSalient(Cropr):
    """Keep the patches that :class:`Cropr` would prune: the lowest scores
    stay (a control of the paper)."""

    sign = -1.
