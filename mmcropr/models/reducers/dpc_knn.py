# Copyright (c) mmcropr contributors.
from typing import Optional, Tuple

import torch
from torch import Tensor, nn

from mmcropr.registry import MODELS
from mmcropr.structures import Merge, TokenState
from mmcropr.utils.precision import at_least_float32

from .base import TokenReducer
from .distances import pairwise_distances


@torch.no_grad()
def density_peaks(patches: Tensor, num_clusters: int, num_neighbours: int,
                  jitter: Tensor) -> Tuple[Tensor, Tensor]:
    """Cluster by density peaks with nearest neighbours.

    Args:
        patches: (B, K, D).
        num_clusters: M, at most K.
        num_neighbours: Neighbours of the density, a patch itself included.
        jitter: Added to the densities (B, K), against ties.

    Returns:
        Centres (B, M), most peaked first, and the cluster (B, K) of every
        patch.
    """
    batch, length, dim = patches.shape
    distance = pairwise_distances(patches) / dim**.5
    nearest = distance.topk(
        min(num_neighbours, length), largest=False, sorted=False)[0]
    density = (-nearest.square().mean(-1)).exp() + jitter
    higher = density[:, None, :] > density[:, :, None]
    farthest = distance.flatten(1).max(1)[0][:, None, None]
    gap = torch.where(higher, distance, farthest).min(-1)[0]
    centres = (gap * density).topk(num_clusters)[1]
    rows = distance.gather(
        1, centres[..., None].expand(-1, -1, length))
    clusters = rows.argmin(1)
    numbers = torch.arange(num_clusters, device=patches.device)
    return centres, clusters.scatter(1, centres, numbers.expand(batch, -1))


@MODELS.register_module()
class DPCKNN(TokenReducer):
    """Merge the patches of every cluster of a density-peak clustering (Zeng
    et al., TCFormer, CVPR 2022) into their mean, weighted by a learned score.

    Args:
        embed_dim: Channels D of the tokens.
        num_neighbours: Neighbours of the density, a patch itself included.
        weighted: Whether the score is learned, or the same for all.
        init_cfg: As of every mmengine module.

    Raises:
        ValueError: If ``num_neighbours`` is below 1.
    """

    step_types = (Merge, )

    def __init__(self,
                 embed_dim: int,
                 num_neighbours: int = 5,
                 weighted: bool = True,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(embed_dim, init_cfg)
        if num_neighbours < 1:
            raise ValueError('num_neighbours must be 1 or more, got '
                             f'{num_neighbours}')
        self.num_neighbours = num_neighbours
        self.score = nn.Linear(embed_dim, 1) if weighted else None

    def jitter(self, patches: Tensor) -> Tensor:
        """Density to add against ties, (B, K): in training a little noise,
        in evaluation nothing, so that two runs are equal."""
        shape = patches.shape[:2]
        if not self.training:
            return torch.zeros(shape, device=patches.device)
        return torch.rand(shape, device=patches.device) * 1e-6

    def forward(self, state: TokenState, length: int) -> TokenState:
        patches = state.patches
        if length >= state.length:
            if self.training and self.score is not None:
                # Weights that do no work would stop distributed training
                state.x = state.x + 0 * self.score(patches[:, :0]).sum()
            return state
        count = length - state.num_prefix
        centres, clusters = density_peaks(patches, count, self.num_neighbours,
                                          self.jitter(patches))
        values = at_least_float32(patches)  # half precision cannot count
        weights = torch.ones_like(values[..., :1])
        if self.score is not None:
            weights = at_least_float32(self.score(patches)).exp()
        shape = (patches.shape[0], count)
        total = weights.new_zeros(*shape, 1).scatter_add(
            1, clusters[..., None], weights) + 1e-6
        share = weights / total.gather(1, clusters[..., None])
        merged = values.new_zeros(*shape, values.shape[2]).scatter_add(
            1, clusters[..., None].expand_as(values), values * share)
        state.merge(merged.to(patches.dtype), clusters, centres)
        return state
