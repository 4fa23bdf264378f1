# Copyright (c) mmcropr contributors.
"""The one adapter between timm's ViTs and token states.

Everything that depends on timm's internals is here: embedding, rotary tables,
running a block whole or in halves, attention statistics, last block and norm.
"""
from functools import partial
from typing import Any, Dict, Optional, Sequence, Tuple

import torch
from timm.layers import apply_rot_embed_cat
from timm.models.eva import Eva
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mmcropr.structures import TokenState

from .policy import attend_by_policy

# What can be watched
STATISTICS = ('cls_attention', 'received_attention', 'keys', 'significance')
# Rows of an attention matrix that are computed together for its statistics
QUERIES_AT_ONCE = 256


class Tap:
    """Forward hook that keeps a module's output while it is armed.

    Args:
        detach: Whether without its gradient.
    """

    def __init__(self, detach: bool = True) -> None:
        self.armed, self.detach = False, detach
        self.value: Optional[Tensor] = None

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        if self.armed:
            self.value = output.detach() if self.detach else output

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
        self._taps: Dict[int, Tuple[Tap, ...]] = {}
        self._kinds: Dict[int, Tuple[str, ...]] = {}

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
            has_class_token=self.has_class_token,
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

    @staticmethod
    def mask_of(state: TokenState) -> Optional[Tensor]:
        """What is added to the attention logits, (B, 1, 1, P + K): a token
        that stands for n of them counts n times (ToMe), one that only fills
        up not at all; None if there are neither."""
        size = state.size if state.proportional else None
        if size is None and state.mask is None:
            return None
        # In the precision of the queries, which autocast may have lowered;
        # attention on the CPU asks for it in torch 2.1
        dtype = (state.x[0, :0] @ state.x[0, :0].T).dtype
        bias = torch.zeros_like(state.x[..., 0], dtype=dtype)
        if size is not None:
            bias = bias + size.log().to(dtype)
        if state.mask is not None:
            bias = bias.masked_fill(~state.mask, -torch.inf)
        return bias[:, None, None]

    def _run(self, function: Any, *args: Any) -> Tensor:
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(function, *args, use_reentrant=False)
        return function(*args)

    def block(self, number: int, state: TokenState) -> TokenState:
        """Run one block."""
        block, rope = self.vit.blocks[number], self.rope_of(number, state)
        taps, mask = self._arm(number), self.mask_of(state)
        policy = state.policy

        def whole(x: Tensor) -> Tensor:
            with attend_by_policy(block.attn, policy):
                if self.is_eva:
                    return block(x, rope, mask)
                return block(x) if mask is None else block(x, mask)

        state.x = self._run(whole, state.x)
        self._read(number, taps, state, rope)
        return state

    def attention_half(self, number: int, state: TokenState) -> TokenState:
        """Run a block's attention with its residual; :meth:`mlp_half` after
        it gives exactly :meth:`block`."""
        block, rope = self.vit.blocks[number], self.rope_of(number, state)
        scale = self._scale_of(block, 1)

        mask, policy = self.mask_of(state), state.policy

        def half(x: Tensor) -> Tensor:
            y = block.norm1(x)
            with attend_by_policy(block.attn, policy):
                if self.is_eva:
                    y = block.attn(y, rope, mask)
                else:
                    y = block.attn(y, attn_mask=mask)
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

    def watch(self, number: int, kinds: Sequence[str],
              gradient: bool = False) -> None:
        """From now on leave statistics of a block in ``state.stats``.

        Queries and keys are read where the block makes them, so its own fused
        attention stays as it is, and no (K, K) matrix is ever whole.

        Args:
            number: Of the block.
            kinds: 'cls_attention', the class token's attention to the
                patches, mean over heads, (B, K); 'received_attention', what
                each patch gets of all tokens' attention, summed over heads,
                (B, K); 'keys' of all tokens without position, mean over
                heads, (B, P + K, D / heads); 'significance', the class
                token's attention to a patch times the norm of its value,
                summed over heads, (B, K).
            gradient: Whether with their gradient.

        Raises:
            ValueError: If there is no such kind, the class token's attention
                is asked for and there is none, or a gradient with
                checkpointing.
        """
        unknown = set(kinds) - set(STATISTICS)
        if unknown:
            raise ValueError(
                f'no statistics of attention are called {sorted(unknown)}; '
                f'there are {", ".join(STATISTICS)}.')
        asks_class = {'cls_attention', 'significance'} & set(kinds)
        if asks_class and not self.has_class_token:
            raise ValueError(
                f'{type(self.vit).__name__} without a class token has no '
                'class attention to score by; use an arch with a class token '
                'or another reducer (mmcropr.Cropr needs none).')
        if gradient and self.with_cp:
            raise ValueError('attention statistics with a gradient cannot be '
                             'had with gradient checkpointing: with_cp=False.')
        attn = self.vit.blocks[number].attn
        taps = (Tap(not gradient), Tap(not gradient))
        attn.q_norm.register_forward_hook(taps[0])
        attn.k_norm.register_forward_hook(taps[1])
        if 'significance' in kinds:
            entrance = Tap()
            attn.register_forward_pre_hook(
                lambda module, args: entrance(module, None, args[0]))
            taps += (entrance, )
        self._taps[number], self._kinds[number] = taps, tuple(kinds)

    def _arm(self, number: int) -> Optional[Tuple[Tap, ...]]:
        taps = self._taps.get(number)
        for tap in taps or ():
            tap.armed = True
        return taps

    def _read(self, number: int, taps: Optional[Tuple[Tap, ...]],
              state: TokenState, rope: Optional[Tensor]) -> None:
        """Turn what the taps hold, (B, heads, M, D / heads), into the
        statistics of a block."""
        if taps is None:
            return
        attn, kinds = self.vit.blocks[number].attn, self._kinds[number]
        query, key = taps[0].take(), taps[1].take()
        if 'keys' in kinds:
            state.stats['keys'] = key.mean(1)
        query, key = (self._turn(x, attn, rope) for x in (query, key))
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        key = key.transpose(-2, -1)
        mask = self.mask_of(state)

        def weights(rows: Tensor) -> Tensor:
            logits = (rows * attn.scale) @ key
            logits = logits if mask is None else logits + mask
            return logits.float().softmax(-1)[..., self.num_prefix:]

        if 'cls_attention' in kinds:
            found = weights(query[:, :, :1])
            state.stats['cls_attention'] = found.mean(1)[:, 0]
        if 'significance' in kinds:
            values = self._values(attn, taps[2].take())[:, :, self.num_prefix:]
            found = weights(query[:, :, :1])[:, :, 0]
            state.stats['significance'] = (
                found * values.float().norm(dim=-1)).sum(1)
        if 'received_attention' in kinds:
            state.stats['received_attention'] = sum(
                weights(rows).sum((1, 2))
                for rows in query.split(QUERIES_AT_ONCE, dim=2))

    @staticmethod
    def _values(attn: nn.Module, x: Tensor) -> Tensor:
        """Values (B, heads, M, D / heads) from what a block's attention gets,
        as every way of timm to make them does."""
        if getattr(attn, 'qkv', None) is None:
            values = attn.v_proj(x)
        else:
            dim = attn.qkv.weight.shape[0] // 3
            bias = getattr(attn, 'v_bias', None)
            if bias is None and attn.qkv.bias is not None:
                bias = attn.qkv.bias[2 * dim:]
            values = F.linear(x, attn.qkv.weight[2 * dim:], bias)
        return values.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)

    def _turn(self, x: Tensor, attn: nn.Module,
              rope: Optional[Tensor]) -> Tensor:
        """Queries or keys with their rotary embeddings; prefix tokens carry
        no position."""
        if rope is None:
            return x
        half = getattr(attn, 'rotate_half', False)
        prefix, patches = x.tensor_split([self.num_prefix], dim=2)
        patches = apply_rot_embed_cat(patches, rope, half=half)
        return torch.cat([prefix, patches.type_as(prefix)], dim=2)
