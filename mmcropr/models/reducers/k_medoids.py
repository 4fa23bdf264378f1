# Copyright (c) mmcropr contributors.
from typing import Optional, Tuple

import torch
from torch import Tensor

from mmcropr.registry import MODELS
from mmcropr.structures import Merge, TokenState, take_rows

from .base import TokenReducer
from .distances import pairwise_distances

# Rows of an attention matrix that are computed together
QUERIES_AT_ONCE = 256


@torch.no_grad()
def cluster_medoids(distance: Tensor, weights: Tensor, medoids: Tensor,
                    iters: int) -> Tuple[Tensor, Tensor]:
    """Clusters around medoids.

    The new medoid of a cluster is its member with the smallest product of
    weight and sum of distances to all patches, as in the study that the
    published comparison builds on (Haurum et al., 2023).

    Args:
        distance: (B, K, K).
        weights: Of the patches, (B, K).
        medoids: The first ones, (B, M).
        iters: Number of updates.

    Returns:
        Medoids (B, M) and the cluster (B, K) of every patch.
    """
    length, count = distance.shape[1], medoids.shape[1]
    cost = (weights * distance.sum(-1))[:, None]
    numbers = torch.arange(count, device=distance.device)[:, None]
    for step in range(iters + 1):
        rows = distance.gather(1, medoids[..., None].expand(-1, -1, length))
        clusters = rows.argmin(1)
        if step < iters:
            member = clusters[:, None] == numbers
            medoids = torch.where(member, cost, torch.inf).argmin(-1)
    return medoids, clusters


def received_attention(state: TokenState) -> Tensor:
    """What each patch gets of all tokens' attention in the block just run,
    summed over heads, (B, K)."""
    attention = state.attention
    queries, keys = attention.queries(), attention.keys()
    return sum(
        attention.weights(rows, keys).sum((1, 2))
        for rows in queries.split(QUERIES_AT_ONCE, dim=2))


@MODELS.register_module()
class KMedoids(TokenReducer):
    """Replace every cluster of patches by its medoid (Marin et al., Token
    Pooling in Vision Transformers, WACV 2023).

    Args:
        embed_dim: Channels D of the tokens.
        iters: Number of updates of the medoids.
        weighted: Whether patches weigh what attention they received in the
            block before, and the heaviest are the first medoids. Else the
            first medoids are far from each other, the very first at random
            in training and the first patch in evaluation.
        init_cfg: As of every mmengine module.

    Raises:
        ValueError: If ``iters`` is below 0.
    """

    step_types = (Merge, )

    def __init__(self,
                 embed_dim: int,
                 iters: int = 3,
                 weighted: bool = True,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(embed_dim, init_cfg)
        if iters < 0:
            raise ValueError(f'iters must be 0 or more, got {iters}')
        self.iters, self.weighted = iters, weighted
        self.needs_attention = weighted

    def first(self, length: int) -> int:
        """The very first medoid of the unweighted variant."""
        return int(torch.randint(length, ())) if self.training else 0

    def far_apart(self, distance: Tensor, count: int) -> Tensor:
        """Medoids (B, count), each the patch with the largest distance to any
        of those before."""
        batch, length = distance.shape[:2]
        medoids = [
            torch.full((batch, 1), self.first(length), device=distance.device)
        ]
        far = torch.zeros_like(distance[:, 0])
        free = torch.ones_like(far)
        while len(medoids) < count:
            last = medoids[-1]
            row = distance.gather(1, last[..., None].expand(-1, -1, length))
            far = torch.maximum(far, row[:, 0])
            free = free.scatter(1, last, 0.)
            medoids.append((far * free).argmax(1, keepdim=True))
        return torch.cat(medoids, dim=1)

    def forward(self, state: TokenState, length: int) -> TokenState:
        if length >= state.length:
            return state
        patches, count = state.patches, length - state.num_prefix
        with torch.no_grad():
            distance = pairwise_distances(patches)
            if self.weighted:
                weights = received_attention(state)
                medoids = weights.topk(count)[1]
            else:
                weights = torch.ones_like(distance[:, 0])
                medoids = self.far_apart(distance, count)
        medoids, clusters = cluster_medoids(distance, weights, medoids,
                                            self.iters)
        state.merge(take_rows(patches, medoids), clusters, medoids)
        return state
