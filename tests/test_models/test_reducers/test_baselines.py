# Copyright (c) mmcropr contributors.
import inspect

import pytest
import torch
from timm.layers import apply_rot_embed_cat
from timm.models.eva import Eva
from torch import Tensor, nn
from torch.nn import functional as F

from mmcropr.models import AttnTopK, CroprViT, Random, Variance
from mmcropr.models.reducers.baselines import class_attention
from mmcropr.structures import Origin, TokenState
from tests.utils import TINY, TINY_EVA, make_state, randomise_layer_scale

EVA = dict(family='eva', embed_dim=32, depth=4, num_heads=2)
ROPE = dict(EVA, use_rot_pos_emb=True, attn_type='rope')
REGISTERS = dict(num_reg_tokens=2, no_embed_class=True)
ARCHS = dict(
    vit=TINY,
    vit_qk_norm=dict(TINY, qk_norm=True, init_values=1., reg_tokens=3),
    distilled='deit_tiny_distilled_patch16_224',
    eva02=TINY_EVA,
    eva_fused=dict(EVA, qkv_fused=True),
    dinov3=dict(
        EVA, use_rot_pos_emb=True, rope_type='dinov3', rope_rotate_half=True,
        use_abs_pos_emb=False, qkv_bias=False, **REGISTERS),
    pe=dict(ROPE, rope_grid_indexing='xy', init_values=1.),
    mixed=dict(ROPE, rope_type='mixed', use_abs_pos_emb=False)
)  # yapf: disable
if 'num_kv_heads' in inspect.signature(Eva).parameters:  # not in timm 1.0.20
    ARCHS['grouped_query'] = dict(ROPE, num_kv_heads=1, qkv_fused=False)


def make_model(arch: object) -> CroprViT:
    model = CroprViT(
        arch,
        img_size=64,
        out_type='tokens',
        reducer=dict(
            type='mmcropr.AttnTopK', rate=2, align=1, modules=[0, 1])).eval()
    with torch.no_grad():
        for parameter in model.vit.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    randomise_layer_scale(model.vit)
    return model


def test_random_is_uniform():
    torch.manual_seed(0)
    reducer, state = Random(embed_dim=8), make_state(1000, (4, 8), 1, 8)
    reducer(state, 1 + 8)
    counts = torch.bincount(state.index.flatten(), minlength=32)
    # Under a uniform choice this is chi-squared with 31 degrees of freedom,
    # 31 +- 8; less than 8 would be too regular to be random.
    chi = ((counts - 250)**2 / (250 * (1 - 8 / 32))).sum() * 31 / 32
    assert 8 < chi < 70
    assert len({tuple(row) for row in state.index.tolist()}) > 990


def test_random_draws_anew_and_repeats_by_seed():
    reducer, chosen = Random(embed_dim=8), []
    for seed in (1, None, 1):
        if seed is not None:
            torch.manual_seed(seed)
        state = make_state(1, (8, 8), 1, 8)
        reducer(state, 1 + 20)
        chosen.append(state.index.tolist())
    assert chosen[0] == chosen[2] != chosen[1]


def test_variance_of_pixels():
    torch.manual_seed(0)
    h, w, p = 2, 3, 4
    # Every patch has one colour of its own, but for two.
    image = torch.randint(-8, 9, (2, 3, h, w)) / 4
    image = image.repeat_interleave(p, 2).repeat_interleave(p, 3)
    image[0, :, 4:8, 8:12] += torch.randn(3, 4, 4)
    image[1, :, 0:4, 4:8] += torch.randn(3, 4, 4) * 0.01
    state = make_state(2, (h, w), 1, 8, image=image)
    scores = Variance(embed_dim=8).score(state)
    wanted = torch.zeros(2, 6)
    textured = image[0, :, 4:8, 8:12], image[1, :, 0:4, 4:8]
    for row, place, patch in zip((0, 1), (5, 1), textured):
        wanted[row, place] = patch.flatten(1).var(1, unbiased=False).mean()
    assert torch.allclose(scores, wanted, atol=1e-12)
    Variance(embed_dim=8)(state, 1 + 1)
    assert state.index.tolist() == [[5], [1]]


def test_variance_of_patches_that_are_left():
    image = torch.randn(2, 3, 8, 8) * torch.rand(2, 1, 8, 8)
    state = make_state(2, (4, 4), 1, 8, image=image)
    reducer = Variance(embed_dim=8)
    scores = reducer.score(state)
    state.prune(torch.rand(2, 16), 1 + 9)
    wanted = [row[index] for row, index in zip(scores, state.index)]
    assert torch.equal(reducer.score(state), torch.stack(wanted))


def test_variance_in_a_backbone():
    model = CroprViT(
        dict(TINY, patch_size=8),
        img_size=32,
        out_type='tokens',
        reducer=dict(type='mmcropr.Variance', rate=6, align=1)).eval()
    image = torch.ones(1, 3, 32, 48)
    image[:, 1] = 5  # any colour
    image[..., 8:24, 16:24] += torch.randn(3, 16, 8)  # patches 8 and 14
    state = model(image)
    assert state.grid == (4, 6) and state.index.shape == (1, 5)
    assert {8, 14} < set(state.index[0].tolist())


def heads_of(x: Tensor, num_heads: int) -> Tensor:
    return x.unflatten(2, (num_heads, -1)).transpose(1, 2)


def watched(model: CroprViT, number: int, state: TokenState) -> tuple:
    """Input of a block and the attention that the trunk read in it."""
    x = state.x
    state = model.trunk.block(number, state)
    assert state.x.shape == x.shape
    return x, class_attention(state)


@torch.no_grad()
def test_class_attention_vit():
    torch.manual_seed(0)
    model = make_model(TINY)
    state = model.trunk.embed(torch.randn(2, 3, 64, 80))
    state.prune(torch.rand(2, 20), 1 + 13)
    x, found = watched(model, 1, state)
    block = model.vit.blocks[1]
    y = block.norm1(x) @ block.attn.qkv.weight.T + block.attn.qkv.bias
    query, key, _ = (heads_of(part, 2) for part in y.chunk(3, dim=2))
    logits = query @ key.transpose(2, 3) / 16**.5
    wanted = logits.softmax(-1).mean(1)[:, 0, 1:]
    assert torch.allclose(found, wanted, atol=1e-6)
    assert found.std() > 1e-4


@torch.no_grad()
def test_class_attention_eva():
    torch.manual_seed(0)
    model = make_model(TINY_EVA)
    state = model.trunk.embed(torch.randn(2, 3, 64, 80))
    table = state.origin.rope
    state.prune(torch.rand(2, 20), 1 + 13)
    x, found = watched(model, 1, state)
    block = model.vit.blocks[1]
    query, key = (heads_of(proj(block.norm1(x)), 2)
                  for proj in (block.attn.q_proj, block.attn.k_proj))
    for image in range(2):
        rope = table[state.index[image]]
        turned = apply_rot_embed_cat(key[image, :, 1:], rope)
        assert not torch.allclose(turned, key[image, :, 1:], atol=1e-2)
        keys = torch.cat([key[image, :, :1], turned], dim=1)
        logits = query[image, :, :1] @ keys.transpose(1, 2) / 16**.5
        wanted = logits.softmax(-1).mean(0)[0, 1:]
        assert torch.allclose(found[image], wanted, atol=1e-6)


def timm_attention(block: nn.Module, x: Tensor, rope: Tensor) -> Tensor:
    """Attention weights (1, heads, M, M) as timm computes them without fused
    attention, for one image."""
    weights, fused = [], block.attn.fused_attn
    handle = block.attn.attn_drop.register_forward_hook(
        lambda module, args, output: weights.append(output))
    block.attn.fused_attn = False
    block(x) if rope is None else block(x, rope=rope)
    block.attn.fused_attn = fused
    handle.remove()
    return weights[0]


@pytest.mark.parametrize('num_keep', [None, 11])
@pytest.mark.parametrize('name', ARCHS)
@torch.no_grad()
def test_class_attention_is_that_of_timm(name, num_keep):
    torch.manual_seed(0)
    model = make_model(ARCHS[name])
    # As many images as heads: a rotary table per image must not be taken for
    # one per head.
    heads = model.vit.blocks[1].attn.num_heads
    state = model.trunk.embed(torch.randn(heads, 3, 64, 80))
    mixed = getattr(model.vit, 'rope_mixed', False)
    table = state.origin.rope[1] if mixed else state.origin.rope
    if num_keep:
        state.prune(torch.rand(heads, 20), state.num_prefix + num_keep)
    x, found = watched(model, 1, state)
    for image in range(heads):
        index = state.raster_index()[image]
        rope = None if table is None else table[..., index, :]
        weights = timm_attention(model.vit.blocks[1], x[image:image + 1], rope)
        wanted = weights[0, :, 0, state.num_prefix:].mean(0)
        assert found[image].shape == (num_keep or 20, )
        assert torch.allclose(found[image], wanted, atol=1e-6)


def test_attn_topk_keeps_the_most_attended():
    torch.manual_seed(0)
    model = make_model(TINY)
    image = torch.randn(3, 3, 64, 64)
    state = model(image)
    by_hand = model.trunk.embed(image)
    for number, length in enumerate([14, 12]):
        _, scores = watched(model, number, by_hand)
        kept = scores.topk(length - 1)[1].sort()[0]
        wanted = by_hand.raster_index().gather(1, kept)
        by_hand.prune(scores, length)
        assert torch.equal(by_hand.index, wanted)
    assert torch.equal(state.raster_index(), wanted)


@pytest.mark.parametrize('arch', [
    dict(TINY, class_token=False), dict(TINY_EVA, class_token=False),
    dict(TINY, class_token=False, reg_tokens=2), 'test_vit2'
])  # yapf: disable
def test_attn_topk_needs_a_class_token(arch):
    with pytest.raises(ValueError, match='without a class token'):
        CroprViT(arch, img_size=64, reducer=dict(type='mmcropr.AttnTopK',
                                                 rate=2))  # yapf: disable
    assert AttnTopK.needs_class_token


def test_variance_does_not_see_the_edge_of_padding():
    image = torch.full((1, 3, 20, 28), 0.7)
    image[..., 2, 2] = 0.8
    state = TokenState(
        torch.zeros(1, 4, 8),
        Origin(grid=(2, 2), num_prefix=0,
               image=F.pad(image, (0, 4, 0, 12)), image_size=(20, 28)))
    scores = Variance(8).score(state)
    assert scores[0, 0] > 0
    assert torch.allclose(scores[0, 1:], torch.zeros(3), atol=1e-9)


@pytest.mark.parametrize('name', ARCHS)
@torch.no_grad()
def test_values_are_those_of_timm(name):
    """Weighted by the attention they are what goes into its projection."""
    torch.manual_seed(0)
    model = make_model(ARCHS[name])
    block, read = model.vit.blocks[1], []
    state = model.trunk.embed(torch.randn(1, 3, 64, 80))
    mixed = getattr(model.vit, 'rope_mixed', False)
    table = state.origin.rope[1] if mixed else state.origin.rope
    handle = block.attn.proj.register_forward_pre_hook(
        lambda module, args: read.append(args[0]))
    x, _ = watched(model, 1, state)
    handle.remove()
    weights = timm_attention(block, x, table)
    values = state.attention.values()
    assert values.shape[:3] == weights.shape[:3]
    found = (weights @ values).transpose(1, 2).flatten(2)
    assert torch.allclose(found, read[0], atol=1e-5)
