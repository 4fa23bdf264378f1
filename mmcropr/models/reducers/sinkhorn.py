# Copyright (c) mmcropr contributors.
import math
from typing import Optional, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmcropr.registry import MODELS

from .base import SoftMerger


@MODELS.register_module()
class Sinkhorn(SoftMerger):
    """Transport unit-length patches to learned centres (tokenizer of Haurum
    et al., Multi-scale hybrid vision transformer and Sinkhorn tokenizer,
    Automation in Construction, 2022).

    Every patch gives away a mass of 1, every centre collects about K / M, so
    mixtures are sums of unit vectors. Centres count by their direction; their
    gradient is that of the normalised centre.

    Args:
        embed_dim: Channels D of the tokens.
        num_tokens: Number M of centres; the backbone takes it from the
            schedule.
        eps: Temperature of the kernel, above 0.
        iters: Number of row and column scalings, 1 or more.
        init_cfg: As of every mmengine module.

    Raises:
        ValueError: If ``eps`` or ``iters`` is out of range.
    """

    def __init__(self,
                 embed_dim: int,
                 num_tokens: int,
                 eps: float = 1.,
                 iters: int = 3,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(embed_dim, num_tokens, init_cfg)
        if eps <= 0 or iters < 1:
            raise ValueError(f'Sinkhorn needs eps > 0 and iters >= 1, got '
                             f'eps={eps}, iters={iters}')
        self.eps, self.iters = eps, iters
        self.centres = nn.Parameter(torch.randn(num_tokens, embed_dim))

    def mix(self, patches: Tensor) -> Tuple[Tensor, Tensor]:
        patches = F.normalize(patches, dim=-1)
        stored = self.centres
        centres = stored + (F.normalize(stored, dim=-1) - stored).detach()
        kernel = (centres @ patches.transpose(1, 2)).float() / self.eps
        total = self.num_tokens + patches.shape[1]
        share = -math.log(total)
        column = torch.zeros_like(kernel[:, :1])
        for _ in range(self.iters):
            row = share - (kernel + column).logsumexp(2, keepdim=True)
            column = share - (kernel + row).logsumexp(1, keepdim=True)
        weights = (row + kernel + column).exp() * total
        return weights.to(patches.dtype) @ patches, weights
