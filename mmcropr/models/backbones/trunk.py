# Copyright (c) mmcropr contributors.
"""The one adapter between timm's ViTs and token states.

Everything that depends on timm's internals is here and, for what differs
between its families, in subclasses: embedding, running a block whole or in
halves, queries and keys, last block and norm, checkpoint layouts.
"""
from functools import partial
from typing import Any, Callable, Dict, Optional, Tuple

import torch
from timm.layers import apply_rot_embed_cat
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mmcropr.structures import BlockAttention, Origin, TokenState
from mmcropr.utils.precision import product_dtype

from .attention_hooks import AttentionHooks
from .policy import attend_by_policy

Between = Callable[[TokenState], TokenState]


class Trunk:
    """Runs a timm ViT piece by piece over a :class:`TokenState`.

    It owns no weights and is no module: ``vit`` stays where the backbone
    keeps it. This class is of timm's VisionTransformer; ``EvaTrunk`` says
    what differs for Eva.

    Args:
        vit: As made by :func:`build_vit`.
        with_cp: Recompute blocks in the backward pass to save memory.
        fuse_at: Block before which all tokens are put back and 'tokens' are
            handed over (None: never, and before the last block).
    """

    #: Keys and shapes of published checkpoints -> those of the model
    convert = staticmethod(
        partial(checkpoint_filter_fn, adapt_layer_scale=True))

    def __init__(self,
                 vit: nn.Module,
                 with_cp: bool = False,
                 fuse_at: Optional[int] = -1) -> None:
        self.vit, self.with_cp = vit, with_cp
        self.depth, self.fuses = len(vit.blocks), fuse_at is not None
        self.stop = (fuse_at if self.fuses else -1) % self.depth
        self.embed_dim: int = vit.embed_dim
        self.num_prefix: int = vit.num_prefix_tokens
        self.patch_size: Tuple[int, int] = tuple(vit.patch_embed.patch_size)
        self.grid: Tuple[int, int] = tuple(vit.patch_embed.grid_size)
        self.has_class_token = getattr(vit, 'cls_token', None) is not None
        self._hooks: Dict[int, AttentionHooks] = {}
        self._fixed: Dict[Tuple[int, int], tuple] = {}

    # What differs between the families of timm
    def _positions(self, x: Tensor) -> Tuple[Tensor, Optional[Tensor]]:
        """Embedded patches (B, h, w, D) -> tokens with prefix and positions
        (B, P + N, D), and the rotary table, if there is one."""
        return self.vit._pos_embed(x), None

    def rope_of(self, number: int, state: TokenState) -> Optional[Tensor]:
        """Rotary embeddings of the current patches for one block."""
        return None

    def _whole(self, block: nn.Module, x: Tensor, rope: Optional[Tensor],
               bias: Optional[Tensor]) -> Tensor:
        return block(x) if bias is None else block(x, bias)

    def _attend(self, block: nn.Module, x: Tensor, rope: Optional[Tensor],
                bias: Optional[Tensor]) -> Tensor:
        return block.attn(x, attn_mask=bias)

    def _scale_of(self, block: nn.Module, branch: int) -> Any:
        """LayerScale of a branch, as a function."""
        return getattr(block, f'ls{branch}')

    # What does not
    def embed(self, image: Tensor) -> TokenState:
        """Image (B, C, H, W) of any size, padded with zeros to whole patches
        at the bottom and right -> tokens before the first block."""
        size = image.shape[-2:]
        pad = [-n % p for n, p in zip(size, self.patch_size)]
        if any(pad):
            image = F.pad(image, (0, pad[1], 0, pad[0]))
        x = self.vit.patch_embed(image)
        grid = (x.shape[1], x.shape[2])
        if grid in self._fixed:
            if self._fixed[grid][0].device != x.device:
                self._fixed[grid] = tuple(
                    t if t is None else t.to(x.device)
                    for t in self._fixed[grid])
            constant, rope = self._fixed[grid]
            x = F.pad(x.flatten(1, 2), (0, 0, self.num_prefix, 0))
            x = constant.to(x) + x
        else:
            x, rope = self._positions(x)
        return TokenState(
            self.vit.norm_pre(x),
            Origin(
                grid=grid,
                num_prefix=self.num_prefix,
                has_class_token=self.has_class_token,
                image=image,
                image_size=(size[0], size[1]),
                rope=rope,
                fuses=self.fuses,
                rest=tuple(
                    partial(self.block, number)
                    for number in range(self.stop, self.depth)),
                norm=self.vit.norm))

    @torch.no_grad()
    def fix_positions(self, size: Tuple[int, int]) -> None:
        """Make prefix tokens, positions and rotary table of images (H, W)
        constants: exporters would use operators that few runtimes have."""
        h, w = (-(-n // p) for n, p in zip(size, self.patch_size))
        weight = next(self.vit.parameters())
        self._fixed[h, w] = self._positions(
            weight.new_zeros(1, h, w, self.embed_dim))

    @staticmethod
    def bias_of(state: TokenState) -> Optional[Tensor]:
        """What is added to the attention logits, (B, 1, 1, P + K): a token
        that stands for n of them counts n times (ToMe), one that only fills
        up not at all; (B, 1, M, M) where not all M may attend to all; None if
        there is nothing to add."""
        if state.allowed is not None:
            bias = torch.zeros_like(
                state.allowed, dtype=product_dtype(state.x))
            return bias.masked_fill(~state.allowed, -torch.inf)[:, None]
        size = state.size if state.proportional else None
        mask = state.mask
        if mask is not None and mask.is_floating_point():
            mask = None  # goes by policy
        if size is None and mask is None:
            return None
        # In the precision of the queries; attention on the CPU asks for it
        # in torch 2.1
        dtype = product_dtype(state.x)
        bias = torch.zeros_like(state.x[..., 0], dtype=dtype)
        if size is not None:
            bias = bias + size.log().to(dtype)
        if mask is not None:
            bias = bias.masked_fill(~mask, -torch.inf)
        return bias[:, None, None]

    @staticmethod
    def policy_of(state: TokenState) -> Optional[Tensor]:
        """Which tokens others attend to, with a gradient, (B, P + K)."""
        soft = state.mask is not None and state.mask.is_floating_point()
        return state.mask if soft else None

    def _run(self, function: Any, *args: Any) -> Tensor:
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(function, *args, use_reentrant=False)
        return function(*args)

    def block(self,
              number: int,
              state: TokenState,
              between: Optional[Between] = None) -> TokenState:
        """Run one block.

        Args:
            number: Which one.
            state: Changed in place.
            between: What happens between its attention and its MLP.
        """
        if between is not None:
            return self._in_halves(number, state, between)
        block, rope = self.vit.blocks[number], self.rope_of(number, state)
        bias, policy = self.bias_of(state), self.policy_of(state)

        def whole(x: Tensor) -> Tensor:
            with attend_by_policy(block.attn, policy):
                return self._whole(block, x, rope, bias)

        self._arm(number)
        state.x = self._run(whole, state.x)
        self._record(number, state, rope, bias)
        return state

    def _in_halves(self, number: int, state: TokenState,
                   between: Between) -> TokenState:
        block = self.vit.blocks[number]

        def halves(x: Tensor) -> Tensor:
            state.x = x
            self.attention_half(number, state)
            return self.mlp_half(number, between(state)).x

        if not (block._forward_pre_hooks or block._forward_hooks):
            halves(state.x)
            return state
        # Whoever hooks the block (FSDP gathers its weights so) has to see one
        # call of it
        block.forward = halves
        try:
            state.x = block(state.x)
        finally:
            del block.forward
        return state

    def attention_half(self, number: int, state: TokenState) -> TokenState:
        """Run a block's attention with its residual; :meth:`mlp_half` after
        it gives exactly :meth:`block`."""
        block, rope = self.vit.blocks[number], self.rope_of(number, state)
        bias, policy = self.bias_of(state), self.policy_of(state)
        scale = self._scale_of(block, 1)

        def half(x: Tensor) -> Tensor:
            with attend_by_policy(block.attn, policy):
                y = self._attend(block, block.norm1(x), rope, bias)
            return x + block.drop_path1(scale(y))

        self._arm(number)
        state.x = self._run(half, state.x)
        self._record(number, state, rope, bias)
        return state

    def mlp_half(self, number: int, state: TokenState) -> TokenState:
        """Run a block's MLP with its residual."""
        block = self.vit.blocks[number]
        scale = self._scale_of(block, 2)

        def half(x: Tensor) -> Tensor:
            return x + block.drop_path2(scale(block.mlp(block.norm2(x))))

        state.x = self._run(half, state.x)
        return state

    def record_attention(self, number: int, gradient: bool = False) -> None:
        """From now on leave the attention of a block in the state.

        Queries and keys are recorded where the block makes them, so its own
        fused attention stays as it is.

        Args:
            number: Of the block.
            gradient: Whether queries and keys have their gradient.

        Raises:
            ValueError: If a gradient is asked for with checkpointing.
        """
        if gradient and self.with_cp:
            raise ValueError('attention statistics with a gradient cannot be '
                             'had with gradient checkpointing: with_cp=False.')
        self._hooks[number] = AttentionHooks.register(
            self.vit.blocks[number].attn, gradient)

    def _arm(self, number: int) -> None:
        if number in self._hooks:
            self._hooks[number].arm()

    def _record(self, number: int, state: TokenState, rope: Optional[Tensor],
                bias: Optional[Tensor]) -> None:
        hooks = self._hooks.get(number)
        if hooks is None:
            return
        attn = self.vit.blocks[number].attn
        query, key, attn_input = (hook.take() for hook in hooks)
        state.attention = BlockAttention(
            query,
            key,
            scale=attn.scale,
            num_prefix=self.num_prefix,
            rotate=partial(self._rotate, attn=attn, rope=rope),
            project_values=partial(self._values, attn, attn_input),
            bias=bias)

    @staticmethod
    def _values(attn: nn.Module, x: Tensor) -> Tensor:
        """Values (B, M, D) of all heads from what a block's attention gets,
        as every way of timm to make them does."""
        if getattr(attn, 'qkv', None) is None:
            return attn.v_proj(x)
        if type(attn.qkv) is not nn.Linear:
            # As LoRA puts there: its weight is not all that it does
            return attn.qkv(x).chunk(3, dim=-1)[2]
        dim = attn.qkv.weight.shape[0] // 3
        bias = getattr(attn, 'v_bias', None)
        if bias is None and attn.qkv.bias is not None:
            bias = attn.qkv.bias[2 * dim:]
        return F.linear(x, attn.qkv.weight[2 * dim:], bias)

    def _rotate(self, x: Tensor, attn: nn.Module,
                rope: Optional[Tensor]) -> Tensor:
        """Queries or keys with their rotary embeddings; prefix tokens carry
        no position."""
        if rope is None:
            return x
        half = getattr(attn, 'rotate_half', False)
        prefix, patches = x.tensor_split([self.num_prefix], dim=2)
        patches = apply_rot_embed_cat(patches, rope, half=half)
        return torch.cat([prefix, patches.type_as(prefix)], dim=2)
