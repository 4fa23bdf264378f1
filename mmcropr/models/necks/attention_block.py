# Copyright (c) mmcropr contributors.
from functools import partial
from typing import Optional, Tuple

from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn import functional as F

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class AttentionBlock(nn.Module):
    """A pre-norm transformer block whose queries read tokens of their own, or
    others.

    Args:
        dim: Channels D.
        num_heads: Of the attention.
        mlp_ratio: Hidden width of the MLP / D.

    Raises:
        ValueError: If ``num_heads`` does not divide ``dim``.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f'num_heads={num_heads} does not divide '
                             f'in_channels={dim}.')
        self.num_heads = num_heads
        self.norm1, self.norm2 = LayerNorm(dim), LayerNorm(dim)
        self.q, self.kv = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, tokens: Optional[Tensor] = None,
                mask: Optional[Tensor] = None) -> Tensor:
        """Queries (B, Q, D) and tokens to read (B, M, D), themselves if None,
        of them those in ``mask`` (B, M), bool -> (B, Q, D)."""
        query = self.norm1(x)
        tokens = query if tokens is None else self.norm1(tokens)
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.q(query), *self.kv(tokens).chunk(2, dim=-1)))
        read = F.scaled_dot_product_attention(
            query, key, value, None if mask is None else mask[:, None, None])
        x = x + self.proj(read.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


def resize_table(table: Tensor, grid: Tuple[int, int],
                 wanted: Tuple[int, int]) -> Tensor:
    """Learned vectors (1, h * w, D) of a grid (h, w) -> those of another."""
    if tuple(grid) == tuple(wanted):
        return table
    table = table.transpose(1, 2).unflatten(2, tuple(grid))
    table = F.interpolate(
        table.float(), size=wanted, mode='bicubic', antialias=True)
    return table.flatten(2).transpose(1, 2)
