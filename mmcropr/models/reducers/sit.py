# Copyright (c) mmcropr contributors.
from typing import Optional, Tuple

import torch
from torch import Tensor, nn

from mmcropr.registry import MODELS
from mmcropr.utils.precision import at_least_float32

from .base import SoftMerger


@MODELS.register_module()
class SiT(SoftMerger):
    """Mix patches by weights that a small MLP predicts from each of them: the
    token slimming module of Zong et al., Self-slimmed Vision Transformer,
    ECCV 2022, without its distillation.

    Args:
        embed_dim: Channels D of the tokens.
        num_tokens: Number M of mixtures; the backbone takes it from the
            schedule.
        init_cfg: As of every mmengine module.
    """

    def __init__(self,
                 embed_dim: int,
                 num_tokens: int,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(embed_dim, num_tokens, init_cfg)
        hidden = embed_dim // 2
        self.weight = nn.Sequential(
            nn.LayerNorm(embed_dim), nn.Linear(embed_dim, hidden), nn.GELU(),
            nn.Linear(hidden, num_tokens))
        self.scale = nn.Parameter(torch.ones(1, 1, 1))

    def mix(self, patches: Tensor) -> Tuple[Tensor, Tensor]:
        logits = self.weight(patches) * self.scale
        weights = at_least_float32(logits).softmax(1).transpose(1, 2)
        return weights.to(patches.dtype) @ patches, weights
