# Copyright (c) mmcropr contributors.
"""The one adapter between timm's ViTs and token states.

Everything that depends on timm's internals is here: embedding, rotary tables,
running a block whole or in halves, attention statistics, last block and norm.
"""
from functools import partial
from typing import Any, Dict, Optional, Tuple

import torch
from timm.layers import apply_rot_embed_cat
from timm.models.eva import Eva
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mmcropr.structures import TokenState


class Tap:
    """Forward hook that keeps a module's output while it is armed."""

    def __init__(self) -> None:
        self.armed = False
        self.value: Optional[Tensor] = None

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        if self.armed:
            self.value = output.detach()

    def take(self) -> Tensor:
        value, self.value, self.armed = self.value, None, False
        return value


class Trunk:
    """Runs a timm ViT piece by piece over a :class:`TokenState`.

    It owns no weights and is no module: ``vit`` stays where the backbone
    keeps it.

    Args:
        vit: As made by :func:`build_vit`.
        with_cp: Recompute blocks in the backward pass to save memory.
    """

    def __init__(self, vit: nn.Module, with_cp: bool = False) -> None:
        self.vit, self.with_cp = vit, with_cp
        self.is_eva = isinstance(vit, Eva)
        self.depth = len(vit.blocks)
        self.embed_dim: int = vit.embed_dim
        self.num_prefix: int = vit.num_prefix_tokens
        self.patch_size: Tuple[int, int] = tuple(vit.patch_embed.patch_size)
        self.grid: Tuple[int, int] = tuple(vit.patch_embed.grid_size)
        self.has_class_token = getattr(vit, 'cls_token', None) is not None
        self._taps: Dict[int, Tuple[Tap, Tap]] = {}

    def embed(self, image: Tensor) -> TokenState:
        """Image (B, C, H, W) of any size -> tokens before the first block.

        Bottom and right are padded with zeros to whole patches.
        """
        size = image.shape[-2:]
        pad = [-n % p for n, p in zip(size, self.patch_size)]
        if any(pad):
            image = F.pad(image, (0, pad[1], 0, pad[0]))
        x = self.vit.patch_embed(image)
        grid = (x.shape[1], x.shape[2])
        x, rope = self.vit._pos_embed(x), None
        if self.is_eva:
            x, rope = x
        x = self.vit.norm_pre(x)
        return TokenState(
            x=x,
            grid=grid,
            num_prefix=self.num_prefix,
            image=image,
            image_size=(size[0], size[1]),
            rope=rope,
            last_block=partial(self.block, self.depth - 1),
            norm=self.vit.norm)

    def rope_of(self, number: int, state: TokenState) -> Optional[Tensor]:
        """Rotary embeddings of the current patches for one block.

        As timm made them while all patches are there, else (B, 1, K, R) or,
        where every block has its own, (B, heads, K, R): with the head axis,
        as without it timm would take the batch for heads.
        """
        if state.rope is None:
            return None
        mixed = getattr(self.vit, 'rope_mixed', False)
        table = state.rope[number] if mixed else state.rope
        if state.index is None:
            return table
        if mixed:
            return table[:, state.index].transpose(0, 1)
        cached = state.stats.get('rope')
        if cached is None or cached[0] is not state.index:
            cached = (state.index, table[state.index][:, None])
            state.stats['rope'] = cached
        return cached[1]

    def _run(self, function: Any, *args: Any) -> Tensor:
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(function, *args, use_reentrant=False)
        return function(*args)

    def block(self, number: int, state: TokenState) -> TokenState:
        """Run one block."""
        block, rope = self.vit.blocks[number], self.rope_of(number, state)
        taps = self._arm(number)
        if self.is_eva:
            state.x = self._run(block, state.x, rope)
        else:
            state.x = self._run(block, state.x)
        self._read(number, taps, state, rope)
        return state

    def attention_half(self, number: int, state: TokenState) -> TokenState:
        """Run a block's attention with its residual; :meth:`mlp_half` after
        it gives exactly :meth:`block`."""
        block, rope = self.vit.blocks[number], self.rope_of(number, state)
        scale = self._scale_of(block, 1)

        def half(x: Tensor) -> Tensor:
            y = block.norm1(x)
            y = block.attn(y, rope) if self.is_eva else block.attn(y)
            return x + block.drop_path1(scale(y))

        taps = self._arm(number)
        state.x = self._run(half, state.x)
        self._read(number, taps, state, rope)
        return state

    def mlp_half(self, number: int, state: TokenState) -> TokenState:
        """Run a block's MLP with its residual."""
        block = self.vit.blocks[number]
        scale = self._scale_of(block, 2)

        def half(x: Tensor) -> Tensor:
            return x + block.drop_path2(scale(block.mlp(block.norm2(x))))

        state.x = self._run(half, state.x)
        return state

    def _scale_of(self, block: nn.Module, branch: int) -> Any:
        """LayerScale of a branch, as a function."""
        if not self.is_eva:
            return getattr(block, f'ls{branch}')
        gamma = getattr(block, f'gamma_{branch}')
        return nn.Identity() if gamma is None else lambda y: gamma * y

    def watch_cls_attention(self, number: int) -> None:
        """From now on leave the class token's attention of a block, mean over
        heads, in ``state.stats['cls_attention']`` (B, K).

        Queries and keys are read where the block makes them, so its own fused
        attention stays as it is.

        Raises:
            ValueError: If the model has no class token.
        """
        if not self.has_class_token:
            raise ValueError(
                f'{type(self.vit).__name__} without a class token has no '
                'class attention to score by; use an arch with a class token '
                'or another reducer (mmcropr.Cropr needs none).')
        attn, taps = self.vit.blocks[number].attn, (Tap(), Tap())
        attn.q_norm.register_forward_hook(taps[0])
        attn.k_norm.register_forward_hook(taps[1])
        self._taps[number] = taps

    def _arm(self, number: int) -> Optional[Tuple[Tap, Tap]]:
        taps = self._taps.get(number)
        if taps is not None:
            taps[0].armed = taps[1].armed = True
        return taps

    @torch.no_grad()
    def _read(self, number: int, taps: Optional[Tuple[Tap, Tap]],
              state: TokenState, rope: Optional[Tensor]) -> None:
        if taps is None:
            return
        attn = self.vit.blocks[number].attn
        # (B, heads, M, D / heads); the class token carries no position.
        query, key = taps[0].take()[:, :, :1], taps[1].take()
        if rope is not None:
            prefix, patches = key.tensor_split([self.num_prefix], dim=2)
            half = getattr(attn, 'rotate_half', False)
            key = torch.cat([
                prefix,
                apply_rot_embed_cat(patches, rope, half=half).type_as(prefix)
            ], dim=2)  # yapf: disable
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        logits = (query * attn.scale) @ key.transpose(-2, -1)
        weights = logits.float().softmax(-1).mean(1)[:, 0]
        state.stats['cls_attention'] = weights[:, self.num_prefix:]
