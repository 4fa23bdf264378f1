# Copyright (c) mmcropr contributors.
"""Running a timm ViT piece by piece against timm's own forward."""
import inspect

import pytest
import timm
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

from mmcropr.models import CroprViT
from mmcropr.models.backbones import trunk as trunk_file
from tests.utils import TINY, TINY_EVA, randomise_layer_scale

EVA = dict(family='eva', embed_dim=32, depth=4, num_heads=2)
ROPE = dict(EVA, use_rot_pos_emb=True, attn_type='rope')
DINOV3 = dict(
    EVA, use_rot_pos_emb=True, rope_type='dinov3', rope_rotate_half=True,
    use_abs_pos_emb=False, qkv_bias=False, num_reg_tokens=2,
    no_embed_class=True, init_values=1.)  # yapf: disable
MIXED = dict(ROPE, rope_type='mixed', use_abs_pos_emb=False)
HALVES = [
    TINY, dict(TINY, init_values=1.), TINY_EVA, dict(TINY_EVA, init_values=1.),
    dict(MIXED, init_values=1.), DINOV3
]  # yapf: disable
if 'attn_only_layer_scale' in inspect.signature(Eva).parameters:
    HALVES.append(dict(HALVES[3], attn_only_layer_scale=True))
# arch -> prefix tokens, whether it has LayerScale
NAMES = {
    'test_vit': (1, False),
    'test_vit2': (1, True),  # a register and no class token
    'deit_tiny_distilled_patch16_224': (2, False),
    'deit3_small_patch16_224': (1, True),
    'vit_small_patch14_reg4_dinov2': (5, True),
    'eva02_tiny_patch14_224': (1, False),
    'vit_small_patch16_dinov3': (5, True),
    'vit_small_patch16_rope_mixed_224': (1, True),
    'vit_pe_core_tiny_patch16_384': (1, False)
}
DICTS = dict(
    augreg=(TINY, 1, False),
    mae_or_clip=(dict(TINY, pre_norm=True, qk_norm=True), 1, False),
    registers=(dict(TINY, reg_tokens=3, init_values=1.), 4, True),
    eva_giant=(dict(EVA, qkv_fused=True), 1, False),
    eva02=(dict(TINY_EVA, init_values=1.), 1, True),
    no_class=(dict(TINY_EVA, class_token=False), 0, False),
    dinov3=(DINOV3, 3, True),
    mixed=(MIXED, 1, False))


def reference(arch: object, img_size: int) -> nn.Module:
    kwargs = dict(
        img_size=img_size,
        num_classes=0,
        global_pool='',
        dynamic_img_size=True)
    if isinstance(arch, dict):
        sizes = dict(arch)
        family = dict(vit=VisionTransformer, eva=Eva)[sizes.pop('family')]
        return family(**kwargs, **sizes).eval()
    if 'distilled' in arch:
        kwargs['global_pool'] = 'token'
    return timm.create_model(arch, **kwargs).eval()


@torch.no_grad()
def randomise(vit: nn.Module) -> bool:
    """Every weight away from its initial value; whether any is LayerScale."""
    for parameter in vit.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)
    randomise_layer_scale(vit)
    return any('gamma' in name for name, _ in vit.named_parameters())


def both(arch: object, img_size: int, **kwargs: object) -> tuple:
    torch.manual_seed(0)
    model = CroprViT(arch, img_size=img_size, **kwargs).eval()
    scaled, twin = randomise(model.vit), reference(arch, img_size)
    twin.load_state_dict(model.vit.state_dict())
    return model, twin, scaled


def to_map(tokens: torch.Tensor, num_prefix: int, grid: tuple) -> object:
    rows = tokens[:, num_prefix:].unflatten(1, grid)
    return rows.permute(0, 3, 1, 2)


@pytest.mark.parametrize('arch', [*NAMES, *DICTS])
@torch.no_grad()
def test_equals_timm(arch):
    arch, num_prefix, scaled = DICTS.get(arch, (arch, *NAMES.get(arch, ())))
    patch = 14 if 'patch14' in arch else 16
    model, twin, found_scale = both(arch, 4 * patch)
    assert found_scale == scaled
    assert model.trunk.num_prefix == num_prefix
    for grid in ((4, 4), (3, 5)):
        image = torch.randn(2, 3, grid[0] * patch, grid[1] * patch)
        wanted = twin.forward_features(image)
        maps = model(image)
        assert len(maps) == 1 and maps.state.grid == grid
        featmap = to_map(wanted, num_prefix, grid)
        assert torch.allclose(maps[0], featmap, atol=1e-5)
        model.out_type = 'tokens'
        tokens = model(image).restore().finish()
        model.out_type = 'featmap'
        assert torch.allclose(tokens, wanted, atol=1e-5)


@pytest.mark.parametrize('reducer', [
    dict(type='mmcropr.Cropr', rate=0),
    dict(type='mmcropr.NonSalient', tpr=0.),
    dict(type='mmcropr.Random', rate=0, modules=[0, 2]),
    dict(type='mmcropr.AttnTopK', rate=0, align=1)
])
@pytest.mark.parametrize('arch', ['registers', 'eva02', 'mixed', 'dinov3'])
@torch.no_grad()
def test_rate_zero_is_identity(arch, reducer):
    model, twin, _ = both(
        DICTS[arch][0], 64, reducer=reducer, out_type='tokens')
    image = torch.randn(2, 3, 80, 48)
    state = model(image)
    assert not state.steps and state.length == 15 + DICTS[arch][1]
    wanted = twin.forward_features(image)
    assert torch.allclose(state.restore().finish(), wanted, atol=1e-5)


@pytest.mark.parametrize('arch', ['augreg', 'eva02', 'mixed'])
@torch.no_grad()
def test_any_size_is_padded_with_zeros(arch):
    model, twin, _ = both(DICTS[arch][0], 64)
    image = torch.randn(2, 3, 50, 71)
    maps = model(image)
    padded = F.pad(image, (0, 9, 0, 14))
    assert maps.state.grid == (4, 5) and maps.state.image_size == (50, 71)
    assert torch.equal(maps.state.image, padded)
    wanted = to_map(twin.forward_features(padded), 1, (4, 5))
    assert torch.allclose(maps[0], wanted, atol=1e-5)


@pytest.mark.parametrize('reducer', ['Cropr', 'AttnTopK', 'Variance'])
@pytest.mark.parametrize('arch', [TINY, TINY_EVA, DINOV3, ROPE, MIXED])
@torch.no_grad()
def test_an_image_alone_gives_the_same_as_in_a_batch(arch, reducer):
    torch.manual_seed(0)
    model = CroprViT(
        dict(arch, patch_size=8),
        img_size=64,
        reducer=dict(type=f'mmcropr.{reducer}', rate=20, align=1)).eval()
    randomise(model.vit)
    # With as many images as heads timm could take one for the other.
    image = torch.randn(2, 3, 48, 72)
    maps = model(image)
    gone = maps.state.removal_map()
    assert (gone[0] != gone[1]).any(), 'the images keep different patches'
    assert (gone == -1).sum((1, 2)).max() < 30
    for one, wanted, places in zip(image, maps[0], gone):
        alone = model(one[None])
        assert torch.equal(alone.state.removal_map()[0], places)
        assert torch.allclose(alone[0][0], wanted, atol=1e-5)


@pytest.mark.parametrize('arch', [MIXED, TINY_EVA, DINOV3])
@torch.no_grad()
def test_rotary_embeddings_follow_their_tokens(arch):
    """Pruned ones masked out of the attention of a whole sequence must give
    the same as a sequence that they have left."""
    torch.manual_seed(0)
    model = CroprViT(arch, img_size=64).eval()
    randomise(model.vit)
    state = model.trunk.embed(torch.randn(2, 3, 64, 80))
    block, prefix = model.vit.blocks[2], state.num_prefix
    whole, table = state.x, (
        state.origin.rope[2] if arch is MIXED else state.origin.rope)
    state.prune(torch.rand(2, 20), prefix + 7)
    index = state.index + prefix
    mask = torch.zeros(2, 1, 1, prefix + 20, dtype=torch.bool)
    mask[..., :prefix] = True
    mask = mask.scatter(3, index[:, None, None], True)
    mask = mask.expand(-1, -1, prefix + 20, -1)
    wanted = block(whole, rope=table, attn_mask=mask)
    found = model.trunk.block(2, state).x
    for image in range(2):
        assert torch.allclose(
            found[image, prefix:], wanted[image, index[image]], atol=1e-5)
        assert torch.allclose(
            found[image, :prefix], wanted[image, :prefix], atol=1e-5)


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('arch', HALVES)
def test_two_halves_are_bit_equal_to_the_block(arch, training):
    torch.manual_seed(0)
    model = CroprViT(
        arch, img_size=64, drop_path_rate=0.5,
        reducer=dict(type='mmcropr.AttnTopK', rate=1, align=1, modules=[2])
    ).train(training)  # yapf: disable
    assert randomise(model.vit) == ('init_values' in arch)
    trunk, image = model.trunk, torch.randn(4, 3, 64, 64)
    scores = torch.rand(4, 16)
    for length in (16, 9):
        whole, halves = trunk.embed(image), trunk.embed(image)
        for state in (whole, halves):
            state.prune(scores, trunk.num_prefix + length)
        before = whole.x
        torch.manual_seed(1)
        trunk.block(2, whole)
        torch.manual_seed(1)
        trunk.attention_half(2, halves)
        assert not torch.equal(halves.x, whole.x)
        trunk.mlp_half(2, halves)
        assert torch.equal(halves.x, whole.x)
        assert not torch.equal(whole.x, before)
        assert torch.equal(halves.attention.of_class_token(),
                           whole.attention.of_class_token())


@pytest.mark.parametrize('reducer', ['Cropr', 'AttnTopK'])
@pytest.mark.parametrize('arch', [dict(TINY, init_values=1.), TINY_EVA, MIXED])
def test_checkpointing_changes_no_number(arch, reducer, monkeypatch):
    calls = []

    def counted(*args, **kwargs):
        calls.append(args)
        return torch.utils.checkpoint.checkpoint(*args, **kwargs)

    monkeypatch.setattr(trunk_file, 'checkpoint', counted)
    torch.manual_seed(0)
    image, results, weights = torch.randn(2, 3, 64, 64), [], None
    for with_cp in (False, True):
        model = CroprViT(
            arch, img_size=64, drop_path_rate=0.4, with_cp=with_cp,
            reducer=dict(type=f'mmcropr.{reducer}', rate=4, align=1)
        )  # yapf: disable
        weights = weights or model.state_dict()
        model.load_state_dict(weights)
        torch.manual_seed(1)
        maps = model(image)
        loss = maps[0].square().mean()
        loss = loss + sum(
            r.read()[0].square().mean() for r in maps.state.records)
        loss.backward()
        grads = {k: p.grad for k, p in model.named_parameters()}
        results.append((loss, grads))
        assert len(calls) == 4 * with_cp
    (loss, grads), (other, other_grads) = results
    assert torch.allclose(loss, other, rtol=1e-6)
    for name, grad in grads.items():
        assert torch.allclose(grad, other_grads[name], atol=1e-7), name
    with torch.no_grad():
        model(image)
    assert len(calls) == 4, 'nothing to save without gradients'


@pytest.mark.parametrize('arch', [TINY, TINY_EVA])
def test_fixed_positions_on_another_device(arch):
    """A model may be moved after it was made ready."""
    model = CroprViT(arch, img_size=32, patch_size=8, out_type='tokens')
    model.eval().switch_to_deploy((32, 32))
    state = model.to('meta').trunk.embed(torch.zeros(1, 3, 32, 32).to('meta'))
    assert state.x.device.type == 'meta'
    assert all(x is None or x.device.type == 'meta'
               for x in (state.origin.rope, *model.trunk._fixed[4, 4]))
