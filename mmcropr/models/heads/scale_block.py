# Copyright (c) mmcropr contributors.
import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F


class ScaleBlock(nn.Module):
    """Doubles the resolution of a map of patches (EoMT, CVPR 2025):
    transposed convolution, GELU, depthwise convolution, LayerNorm over the
    channels.

    Args:
        channels: D.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.conv2 = nn.Conv2d(
            channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = LayerNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, D, 2 h, 2 w)."""
        return self.norm(self.conv2(F.gelu(self.conv1(x))))


def dot_product(embeddings: Tensor, features: Tensor) -> Tensor:
    """Mask logits (B, Q, H, W) of queries' embeddings (B, Q, D) at every
    place of features (B, D, H, W)."""
    return torch.einsum('bqc,bchw->bqhw', embeddings, features)
