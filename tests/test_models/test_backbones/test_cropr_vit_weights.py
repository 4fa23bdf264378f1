# Copyright (c) mmcropr contributors.
"""Parameters of a CroprViT: frozen, decayed, loaded, copied."""
import copy

import pytest
import torch
from mmengine.runner import load_checkpoint
from timm.layers import resample_abs_pos_embed
from torch import nn

from mmcropr.models import CroprViT
from tests.utils import TINY, TINY_EVA, randomise_layer_scale

CROPR = dict(type='mmcropr.Cropr', rate=4, align=1)
REGISTERS = dict(TINY, reg_tokens=2, no_embed_class=True, init_values=1.)
MIXED = dict(
    family='eva', embed_dim=32, depth=4, num_heads=2, use_rot_pos_emb=True,
    attn_type='rope', rope_type='mixed', num_reg_tokens=1,
    use_pre_transformer_norm=True)  # yapf: disable


def test_drop_path():
    for reducer, last in ((None, 0.3), (CROPR, 0.)):
        model = CroprViT(
            TINY, img_size=64, drop_path_rate=0.3, reducer=reducer)
        for branch in ('drop_path1', 'drop_path2'):
            rates = [
                getattr(getattr(block, branch), 'drop_prob', 0.)
                for block in model.vit.blocks
            ]
            assert rates == pytest.approx([0., 0.1, 0.2, last])


def expect_frozen(name: str, stages: int) -> bool:
    if name.startswith('reducers.') or stages < 0:
        return False
    if name.startswith('vit.blocks.'):
        return int(name.split('.')[2]) < stages
    return not name.startswith('vit.norm.')


@pytest.mark.parametrize('stages', range(-1, 5))
@pytest.mark.parametrize('arch', [
    REGISTERS, TINY_EVA, dict(TINY, pre_norm=True)
])  # yapf: disable
def test_frozen_stages(arch, stages):
    model = CroprViT(
        arch, img_size=64, frozen_stages=stages, drop_path_rate=0.1,
        reducer=CROPR)  # yapf: disable
    for mode in (True, False, True):
        assert model.train(mode) is model
    maps = model(torch.randn(2, 3, 64, 64))
    loss = maps[0].square().sum()
    (loss + sum(r.read()[0].sum() for r in maps.state.records)).backward()
    for name, parameter in model.named_parameters():
        frozen = expect_frozen(name, stages)
        assert parameter.requires_grad != frozen, name
        assert (parameter.grad is None) == frozen, name
    for number, block in enumerate(model.vit.blocks):
        modes = {module.training for module in block.modules()}
        assert modes == {number >= stages}
    assert model.vit.patch_embed.training == (stages < 0)
    assert model.reducers[0].training and model.vit.norm.training


def test_learned_rotary_frequencies_are_frozen_as_embeddings():
    model = CroprViT(MIXED, img_size=64, frozen_stages=4)
    free = {n for n, p in model.named_parameters() if p.requires_grad}
    assert free == {'vit.norm.weight', 'vit.norm.bias'}


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'model.backbone.'])
@pytest.mark.parametrize('arch', [REGISTERS, dict(TINY, pre_norm=True), MIXED])
def test_layer_depth(arch, prefix):
    model = CroprViT(arch, img_size=64, reducer=CROPR)
    seen = set()
    for name, _ in model.named_parameters():
        depth, total = model.get_layer_depth(prefix + name, prefix)
        part = name.split('.')
        if part[1] == 'blocks':
            wanted = int(part[2]) + 1
        else:
            last = part[0] == 'reducers' or part[1] == 'norm'
            wanted = 5 if last else 0
        assert (depth, total) == (wanted, 6), name
        seen.add(depth)
    assert seen == set(range(6))


@pytest.mark.parametrize('arch', [TINY, TINY_EVA, REGISTERS])
@pytest.mark.parametrize('img_size', [(64, 64), (96, 48), (128, 128)])
def test_position_embeddings_of_another_size(arch, img_size, tmp_path):
    torch.manual_seed(0)
    given = CroprViT(arch, img_size=64)
    path, stored = tmp_path / 'epoch_1.pth', given.vit.pos_embed.clone()
    torch.save(nn.ModuleDict(dict(backbone=given)).state_dict(), path)
    model = CroprViT(arch, img_size=img_size)
    load_checkpoint(
        nn.ModuleDict(dict(backbone=model)), str(path), strict=True)
    wanted = resample_abs_pos_embed(
        stored,
        new_size=[img_size[0] // 16, img_size[1] // 16],
        num_prefix_tokens=0 if arch is REGISTERS else 1)
    assert torch.allclose(model.vit.pos_embed, wanted, atol=1e-6)
    assert torch.equal(given.vit.pos_embed, stored)
    name = 'blocks.2.mlp.norm.weight' if arch is TINY_EVA else 'cls_token'
    assert torch.equal(model.vit.get_parameter(name),
                       given.vit.get_parameter(name))  # yapf: disable


def test_position_embeddings_of_an_unknown_grid():
    # 3 x 4 patches: their number does not tell the grid.
    given = CroprViT(TINY, img_size=(48, 64)).state_dict()
    model = CroprViT(TINY, img_size=64)
    with pytest.raises((RuntimeError, ValueError), match='pos_embed'):
        model.load_state_dict(given)


def test_position_embeddings_of_another_width():
    wider = CroprViT(dict(TINY, embed_dim=48), img_size=32).state_dict()
    with pytest.raises(RuntimeError, match='mismatch for vit.pos_embed'):
        CroprViT(TINY, img_size=64).load_state_dict(wider)


@pytest.mark.parametrize('arch', [REGISTERS, TINY_EVA])
def test_init_weights_overwrites_nothing(arch):
    model = CroprViT(arch, img_size=64, reducer=CROPR)
    randomise_layer_scale(model.vit)
    before = copy.deepcopy(model.state_dict())
    model.init_weights()
    nn.ModuleDict(dict(backbone=model))['backbone'].init_weights()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_init_cfg_has_the_last_word():
    model = CroprViT(
        TINY,
        img_size=64,
        init_cfg=dict(type='Constant', layer='LayerNorm', val=3., bias=2.))
    model.init_weights()
    for block in model.vit.blocks:
        assert (block.norm1.weight == 3).all()
        assert (block.norm1.bias == 2).all()


@torch.no_grad()
def test_deepcopy():
    torch.manual_seed(0)
    cfg = dict(type='mmcropr.AttnTopK', rate=5, align=1)
    model = CroprViT(TINY_EVA, img_size=64, reducer=cfg).eval()
    twin = copy.deepcopy(model)
    image = torch.randn(2, 3, 64, 64)
    maps, others = model(image), twin(image)
    assert torch.equal(maps[0], others[0])
    # Other keys, other attention: each must read its own.
    for block in twin.vit.blocks:
        block.attn.k_proj.weight.normal_()
    changed = twin(image)
    assert (changed.state.removal_map() != others.state.removal_map()).any()
    again = model(image)
    assert torch.equal(again[0], maps[0])
    assert torch.equal(again.state.removal_map(), maps.state.removal_map())
    # Position embeddings of the copy are resampled to the copy's grid.
    twin.load_state_dict(
        CroprViT(TINY_EVA, img_size=96, reducer=cfg).state_dict())
    assert twin.vit.pos_embed.shape == model.vit.pos_embed.shape


@torch.no_grad()
def test_deepcopy_shares_no_tap():
    cfg = dict(type='mmcropr.AttnTopK', rate=5, align=1)
    model = CroprViT(TINY, img_size=64, reducer=cfg).eval()
    twin = copy.deepcopy(model)
    for number, hooks in model.trunk._hooks.items():
        for ours, theirs in zip(hooks, twin.trunk._hooks[number]):
            assert ours is not theirs
            ours.armed = True
    twin(torch.randn(1, 3, 64, 64))
    assert all(
        hook.value is None for hooks in model.trunk._hooks.values()
        for hook in hooks)
    assert twin.trunk.vit is twin.vit
