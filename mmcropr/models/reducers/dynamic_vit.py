# Copyright (c) mmcropr contributors.
from typing import Optional

import torch
from torch import Tensor, nn

from mmcropr.registry import MODELS
from mmcropr.structures import Decide, Decision, TokenState

from .base import TokenReducer


@MODELS.register_module()
class DynamicViT(TokenReducer):
    """Prune by a predictor that learns with the task (Rao et al., DynamicViT,
    NeurIPS 2021).

    At test time the patches with the highest probability to stay do. In
    training each image decides for itself, by Gumbel noise and with a
    straight-through gradient; all tokens stay in the sequence, those decided
    against count for no other one. ``mmcropr.DynamicViTHead`` (in a
    classifier ``mmcropr.DynamicViTClsHead``) holds the decisions to the
    share that the schedule asks for, and distils from a teacher.

    Training therefore saves nothing, and takes the memory of whole attention
    matrices.

    Args:
        embed_dim: Channels D of the tokens, a multiple of 4.
        init_cfg: As of every mmengine module.

    Raises:
        ValueError: If ``embed_dim`` is no multiple of 4.
    """

    step_types = (Decide, )
    record_type = Decision

    def __init__(self,
                 embed_dim: int,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(embed_dim, init_cfg)
        if embed_dim % 4:
            raise ValueError('the predictor of DynamicViT halves its channels '
                             f'twice: embed_dim={embed_dim} is no multiple '
                             'of 4.')
        dim = embed_dim
        self.in_conv = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())
        self.out_conv = nn.Sequential(
            nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, dim // 4),
            nn.GELU(), nn.Linear(dim // 4, 2), nn.LogSoftmax(-1))

    def predict(self, patches: Tensor, keep: Tensor) -> Tensor:
        """Log-probabilities to stay and to leave, (B, K, 2).

        Args:
            patches: (B, K, D).
            keep: 1 for patches that count in the mean over all, (B, K).
        """
        local, pooled = self.in_conv(patches).chunk(2, dim=-1)
        keep = keep[..., None].to(pooled.dtype)
        # Where no patch is left the mean is 0, not undefined
        count = keep.sum(1, keepdim=True).clamp(min=1)
        pooled = (pooled * keep).sum(1, keepdim=True) / count + 1e-6
        both = torch.cat([local, pooled.expand_as(local)], dim=-1)
        return self.out_conv(both)

    def noise(self, log_probs: Tensor) -> Tensor:
        """Gumbel noise for every log-probability, of its shape."""
        return -torch.empty_like(log_probs).exponential_().log()

    def forward(self, state: TokenState, length: int) -> TokenState:
        patches = state.patches
        if not self.training:
            if length >= state.length:
                return state
            log_probs = self.predict(patches, state.keep)
            state.prune(log_probs[..., 0], length)
            return state
        logits = self.predict(patches, state.keep).float()
        logits = logits + self.noise(logits)
        soft = logits.softmax(-1)[..., 0]
        hard = (logits[..., 0] > logits[..., 1]).to(soft.dtype)
        if length - state.num_prefix >= state.num_current:
            # Nothing shall leave here, but distributed training waits for a
            # gradient of every predictor
            hard = torch.ones_like(hard)
        state.decide(hard + (soft - soft.detach()), length)
        return state
