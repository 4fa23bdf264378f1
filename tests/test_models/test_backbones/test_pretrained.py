# Copyright (c) mmcropr contributors.
import copy
from typing import Any, Dict, List

import pytest
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed, resample_patch_embed

from mmcropr.models import CroprViT
from mmcropr.models.backbones import pretrained as pretrained_file
from tests.utils import TINY, TINY_EVA

State = Dict[str, torch.Tensor]


def source(arch: Any = TINY, **kwargs: Any) -> State:
    """State dict of another model, every weight away from its initial one."""
    vit = CroprViT(arch, **{'img_size': 64, **kwargs}).vit
    return {
        name: value + torch.rand_like(value)
        for name, value in vit.state_dict().items()
    }


def load(path: Any, arch: Any = TINY, **kwargs: Any) -> State:
    model = CroprViT(arch, pretrained=str(path), **{'img_size': 64, **kwargs})
    model.init_weights()
    return model.vit.state_dict()


def check_equal(found: State, wanted: State, *skip: str) -> None:
    assert found.keys() >= wanted.keys()
    for name, value in wanted.items():
        if name not in skip:
            assert torch.equal(found[name], value), name


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> List[str]:
    lines = []
    monkeypatch.setattr(pretrained_file, 'print_log',
                        lambda text, logger: lines.append(text))
    return lines


@pytest.mark.parametrize('arch', [TINY, TINY_EVA, 'test_vit'])
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_timm_layout(arch, suffix, tmp_path, log):
    wanted, path = source(arch), tmp_path / f'model{suffix}'
    head = {'head.weight': torch.zeros(5, 32), 'head.bias': torch.zeros(5)}
    save = save_file if suffix == '.safetensors' else torch.save
    save({**wanted, **head}, path)
    check_equal(load(path, arch), wanted)
    total = len(wanted)
    assert log == [
        f"pretrained='{path}': loaded {total} of {total} weights; missing: "
        'none; unexpected: none'
    ]


def test_mae_layout(tmp_path, log):
    wanted, path = source(), tmp_path / 'mae.pth'
    decoder = {
        'mask_token': torch.zeros(1, 1, 16),
        'decoder_pos_embed': torch.zeros(1, 17, 16),
        'decoder_embed.weight': torch.zeros(16, 32),
        'decoder_blocks.0.attn.qkv.weight': torch.zeros(48, 16)
    }
    torch.save({'model': {**wanted, **decoder}, 'epoch': 3}, path)
    check_equal(load(path), wanted)
    assert 'missing: none; unexpected: none' in log[0]


def test_fine_tuned_mae_layout(tmp_path, log):
    wanted, path = source(), tmp_path / 'mae.pth'
    stored = {
        key.replace('norm.', 'fc_norm.') if key.startswith('norm.') else key:
        value
        for key, value in wanted.items()
    }
    assert 'fc_norm.weight' in stored and 'norm.weight' not in stored
    torch.save({'model': stored}, path)
    check_equal(load(path), wanted)
    assert 'missing: none; unexpected: none' in log[0]


def test_a_norm_that_starts_fresh(tmp_path, log):
    """Of everything else the checkpoint's weights are taken."""
    stored, path = source(), tmp_path / 'mae.pth'
    torch.save({'model': stored}, path)
    model = CroprViT(
        TINY, img_size=64, pretrained=dict(weights=str(path), fresh=['norm.']))
    model.init_weights()
    found = model.vit.state_dict()
    check_equal(found, stored, 'norm.weight', 'norm.bias')
    assert (found['norm.weight'] == 1).all()
    assert not found['norm.bias'].any()
    assert 'missing: norm.weight, norm.bias; unexpected: none' in log[0]


def test_layer_scale_of_deit3(tmp_path):
    arch, path = dict(TINY, init_values=1.), tmp_path / 'deit3.pth'
    wanted = source(arch)
    stored = {
        key.replace('ls1.gamma', 'gamma_1').replace('ls2.gamma', 'gamma_2'):
        value
        for key, value in wanted.items()
    }
    assert 'blocks.0.gamma_1' in stored
    torch.save({'model': stored}, path)
    check_equal(load(path, arch), wanted)


def test_eva_layout(tmp_path, log):
    wanted, path = source(TINY_EVA), tmp_path / 'eva.pt'
    names = {
        'fc1_g': 'w1', 'fc1_x': 'w2', 'fc2': 'w3', 'mlp.norm': 'mlp.ffn_ln',
        'q_proj.bias': 'q_bias', 'v_proj.bias': 'v_bias'
    }  # yapf: disable
    stored = {
        'mask_token': torch.zeros(1, 1, 32),
        'lm_head.weight': torch.zeros(7, 32),
        'lm_head.bias': torch.zeros(7),
        'rope.freqs_cos': torch.zeros(16, 16),
        'blocks.0.attn.rope.freqs_sin': torch.zeros(16, 16)
    }
    for key, value in wanted.items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        stored[key] = value
    assert 'blocks.3.mlp.w3.weight' in stored and 'norm.weight' in stored
    torch.save({'module': stored}, path)
    check_equal(load(path, TINY_EVA), wanted)
    assert 'missing: none; unexpected: none' in log[0]


def test_weights_of_a_whole_model_of_ours(tmp_path):
    wanted, path = source(), tmp_path / 'published.pth'
    stored = {f'backbone.vit.{key}': value for key, value in wanted.items()}
    stored['backbone.reducers.0.queries'] = torch.zeros(1, 32)
    stored['decode_head.conv_seg.weight'] = torch.zeros(2, 32, 1, 1)
    torch.save({'state_dict': stored, 'meta': dict(epoch=3)}, path)
    check_equal(load(path), wanted)


@pytest.mark.parametrize('arch', [TINY, TINY_EVA])
@pytest.mark.parametrize('img_size', [(64, 64), (96, 64), (32, 32)])
def test_embeddings_are_resampled(arch, img_size, tmp_path):
    path = tmp_path / 'model.pth'
    given = source(dict(arch, patch_size=14), img_size=56)
    torch.save(given, path)
    found = load(path, arch, img_size=img_size)
    height, width = img_size
    patch = resample_patch_embed(given['patch_embed.proj.weight'], [16, 16])
    pos = resample_abs_pos_embed(
        given['pos_embed'],
        new_size=[height // 16, width // 16],
        num_prefix_tokens=1)
    assert torch.allclose(found['patch_embed.proj.weight'], patch, atol=1e-6)
    assert torch.allclose(found['pos_embed'], pos, atol=1e-6)
    check_equal(found, given, 'patch_embed.proj.weight', 'pos_embed')


def test_report(tmp_path, log):
    stored, path = source(), tmp_path / 'model.pth'
    before = len(stored)
    del stored['norm.weight'], stored['norm.bias']
    stored['projector.weight'] = torch.zeros(3)
    torch.save(stored, path)
    check_equal(load(path), {k: v for k, v in stored.items() if k[0] != 'p'})
    assert log == [
        f"pretrained='{path}': loaded {before - 2} of {before} weights; "
        'missing: norm.weight, norm.bias; unexpected: projector.weight'
    ]


def test_weights_are_loaded_once(tmp_path):
    path = tmp_path / 'model.pth'
    torch.save(source(), path)
    model = CroprViT(TINY, img_size=64, pretrained=str(path))
    model.init_weights()
    with torch.no_grad():
        model.vit.cls_token.fill_(7)
    model.init_weights()
    assert (model.vit.cls_token == 7).all()


def test_timm_weights_are_converted(monkeypatch, log):
    given = source('test_vit', patch_size=14, img_size=56)
    given['fc_norm.weight'] = given.pop('norm.weight')

    def fake(vit, num_classes, in_chans, filter_fn, strict):
        assert (num_classes, in_chans) == (0, 3)
        state = filter_fn(given, vit)
        vit.load_state_dict(state, strict=strict)

    monkeypatch.setattr(pretrained_file, 'timm_load_pretrained', fake)
    model = CroprViT('test_vit', img_size=64, pretrained=True)
    model.init_weights()
    found = model.vit.state_dict()
    patch = resample_patch_embed(given['patch_embed.proj.weight'], [16, 16])
    assert torch.allclose(found['patch_embed.proj.weight'], patch, atol=1e-6)
    assert torch.equal(found['norm.weight'], given['fc_norm.weight'])
    assert 'timm weights of test_vit: loaded 78 of 78' in log[0]


@pytest.mark.parametrize('in_channels', [1, 3, 4])
def test_timm_weights_from_its_own_loader(in_channels):
    """timm repeats or sums the colours of the first layer."""
    given = source('test_vit')
    model = CroprViT(
        'test_vit', img_size=64, in_channels=in_channels, pretrained=True)
    model.vit.pretrained_cfg = dict(
        model.vit.pretrained_cfg, state_dict=copy.deepcopy(given))
    model.init_weights()
    found, first = model.vit.state_dict(), 'patch_embed.proj.weight'
    check_equal(found, given, first)
    colours = given[first]
    wanted = {
        1: colours.sum(1, keepdim=True),
        3: colours,
        4: torch.cat([colours, colours[:, :1]], 1) * 3 / 4
    }[in_channels]
    assert torch.allclose(found[first], wanted, atol=1e-5)


@pytest.mark.parametrize('base, changes', [
    (TINY_EVA, dict(use_post_transformer_norm=False)),
    (TINY, dict(final_norm=False)),
])
@pytest.mark.parametrize('size', [64, 128])
def test_class_token_left_out(base, changes, size, tmp_path, log):
    """Its position goes too; the others are resampled as ever."""
    wanted, path = source(base), tmp_path / 'model.pth'
    torch.save(wanted, path)
    arch = dict(base, class_token=False, **changes)
    found = load(path, arch, img_size=size)
    assert 'cls_token' not in found and 'norm.weight' not in found
    check_equal(found, {
        k: v for k, v in wanted.items()
        if not k.startswith(('cls_token', 'pos_embed', 'norm.'))})
    positions = wanted['pos_embed'][:, 1:]
    if size != 64:
        positions = resample_abs_pos_embed(
            positions, [size // 16] * 2, num_prefix_tokens=0)
    torch.testing.assert_close(found['pos_embed'], positions)
    assert 'missing: none; unexpected: norm.weight, norm.bias' in log[0]
