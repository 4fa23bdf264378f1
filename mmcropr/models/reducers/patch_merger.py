# Copyright (c) mmcropr contributors.
from typing import Optional, Tuple

import torch
from torch import Tensor, nn

from mmcropr.registry import MODELS
from mmcropr.utils.precision import at_least_float32

from .base import SoftMerger


@MODELS.register_module()
class PatchMerger(SoftMerger):
    """Mix normalised patches by their attention to learned queries (Renggli
    et al., Learning to Merge Tokens in Vision Transformers, 2022).

    Args:
        embed_dim: Channels D of the tokens.
        num_tokens: Number M of queries; the backbone takes it from the
            schedule.
        scaled: Divide the logits by sqrt(D). The study that the published
            comparison builds on (Haurum et al., 2023) does not.
        init_cfg: As of every mmengine module.
    """

    def __init__(self,
                 embed_dim: int,
                 num_tokens: int,
                 scaled: bool = False,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(embed_dim, num_tokens, init_cfg)
        self.norm = nn.LayerNorm(embed_dim)
        self.queries = nn.Parameter(torch.randn(num_tokens, embed_dim))
        self.scale = embed_dim**-.5 if scaled else 1.

    def mix(self, patches: Tensor) -> Tuple[Tensor, Tensor]:
        patches = self.norm(patches)
        logits = self.queries @ patches.transpose(1, 2)
        weights = (at_least_float32(logits) * self.scale).softmax(-1)
        return weights.to(patches.dtype) @ patches, weights
