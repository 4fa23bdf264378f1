# Copyright (c) mmcropr contributors.
"""Tokens and multiply-accumulates of an encoder, block by block, from sizes
alone: nothing is run."""
from typing import List, NamedTuple, Optional, Tuple

from torch import nn

from .backbones import CroprViT


class Work(NamedTuple):
    """Of one image, at the full pruning rate.

    Args:
        tokens: Length of the sequence that every block gets, prefix included.
        macs: Multiply-accumulates of every block, attention counted.
        plain: The same without reducers.
        embed: Multiply-accumulates of the patch embedding.
    """
    tokens: List[int]
    macs: List[int]
    plain: List[int]
    embed: int

    @property
    def ratio(self) -> float:
        """How many times as much it would be without reducers."""
        return ((sum(self.plain) + self.embed) /
                (sum(self.macs) + self.embed))


def fuses_at(backbone: CroprViT, neck: Optional[nn.Module]) -> Optional[int]:
    """Block from which on all tokens are there again, None if they are not:
    a neck can say otherwise for the last one."""
    neck = neck[0] if isinstance(neck, nn.Sequential) else neck
    llf = getattr(neck, 'llf', None)
    if llf is None:
        return backbone.fuse_at
    return backbone.trunk.stop if llf else None


def tokens_per_block(backbone: CroprViT,
                     grid: Tuple[int, int],
                     fuse_at: Optional[int],
                     num_queries: int = 0) -> List[int]:
    """Length of the sequence that every block processes, prefix included;
    from block ``fuse_at`` on all of them, and the queries that join there."""
    trunk = backbone.trunk
    full = grid[0] * grid[1] + trunk.num_prefix
    left = dict(
        zip(backbone.schedule.modules, backbone.lengths(grid, training=False))
    ) if backbone.schedule else {}
    lengths, now = [], full
    for block in range(trunk.depth):
        now = full + num_queries if block == fuse_at else now
        lengths.append(now)
        now = left.get(block, now)
    return lengths


def _per_token(module: nn.Module) -> int:
    """Multiply-accumulates of a module's linear layers for one token."""
    return sum(m.weight.numel() for m in module.modules()
               if isinstance(m, nn.Linear))


def _block_macs(block: nn.Module, before: int, after: int) -> int:
    """Of a block whose MLP gets ``after`` tokens of ``before``."""
    proj = next(m for m in block.attn.proj.modules()  # LoRA holds it
                if isinstance(m, nn.Linear))
    attention = 2 * before**2 * proj.in_features
    return (before * _per_token(block.attn) + attention +
            after * _per_token(block.mlp))


def encoder_work(backbone: CroprViT,
                 neck: Optional[nn.Module] = None) -> Work:
    """Work of a ViT on images of its ``img_size``. What reducers compute
    themselves, a neck's own layers and queries that join are left out.

    Args:
        backbone: With or without reducers.
        neck: First or only neck of the model, which may say that tokens do
            not come back.
    """
    trunk, height, width = backbone.trunk, *backbone.trunk.grid
    tokens = tokens_per_block(
        backbone, trunk.grid, fuses_at(backbone, neck))
    full = height * width + trunk.num_prefix
    # In a block whose reducer follows the attention the MLP gets what is left
    inside = {number: length for number, length, reducer in zip(
        backbone.schedule.modules, backbone.lengths(training=False),
        backbone.reducers) if reducer.stage == 'attention'} if (
            backbone.schedule) else {}
    blocks = list(trunk.vit.blocks)
    return Work(
        tokens,
        [_block_macs(block, n, inside.get(i, n))
         for i, (block, n) in enumerate(zip(blocks, tokens))],
        [_block_macs(block, full, full) for block in blocks],
        height * width * trunk.vit.patch_embed.proj.weight.numel())
