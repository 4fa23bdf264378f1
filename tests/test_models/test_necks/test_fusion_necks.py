# Copyright (c) mmcropr contributors.
"""Necks of the paper's fusion table: what they compute, and what they cost."""
import json
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmcropr.models import (CroprViT, CrossAttnConcatNeck, CrossAttnNeck,
                            DToPNeck, LLFNeck, MHSAConcatNeck, TokenConcatNeck)
from mmcropr.models.checks import check_model
from mmcropr.structures import FeatureMaps
from tests.utils import ROOT, TINY, TINY_EVA, load_tool

SIZE = (48, 40)  # 6 x 5 patches
ROW = 'eva02-l_linear_1xb8-amp-64e_ade20k-512x512'
DIGITS = 'digits-eva_linear_1xb32-4e_digits-scenes-96x96'
NECKS = {
    'token-concat': (TokenConcatNeck, {}),
    'cross-attn': (CrossAttnNeck, dict(num_heads=2, num_queries=(6, 5))),
    'cross-attn-concat': (CrossAttnConcatNeck,
                          dict(num_heads=2, num_queries=(6, 5))),
    'mhsa-concat': (MHSAConcatNeck, dict(num_heads=2)),
    'dtop': (DToPNeck, dict(num_classes=5, num_modules=2)),
}


def backbone(arch=TINY_EVA, **kwargs):
    torch.manual_seed(0)
    reducer = dict(type='mmcropr.Cropr', keep=[20, 12], modules=[0, 1],
                   align=1)
    return CroprViT(arch, img_size=SIZE, patch_size=8, out_type='tokens',
                    **dict(dict(reducer=reducer), **kwargs)).eval()


def make(name):
    kind, sizes = NECKS[name]
    return kind(**dict(sizes, in_channels=32) if sizes else {}).eval()


@pytest.mark.parametrize('name', NECKS)
@pytest.mark.parametrize('arch', [TINY, TINY_EVA])
@torch.no_grad()
def test_maps(name, arch):
    """Every place has a value; another size than that of training, too."""
    vit, neck = backbone(arch), make(name)
    for size, grid in ((SIZE, (6, 5)), ((64, 56), (8, 7))):
        maps = neck(vit(torch.rand(2, 3, *size)))
        assert maps[0].shape == (2, 32, *grid)
        assert maps[0].isfinite().all() and maps[0].is_contiguous()
        assert maps.state.length == maps.state.num_patches + 1
        assert (maps.state.removal_map() >= 0).any()


@torch.no_grad()
def test_kept_and_pruned():
    """Pruned patches are as they left, normalised; kept ones are what the
    last block makes of the kept ones alone."""
    vit, image = backbone(TINY), torch.rand(2, 3, *SIZE)
    state = vit(image)
    kept, tokens = state.index.clone(), state.full()
    last = vit.vit.norm(vit.vit.blocks[-1](state.x))[:, 1:]
    found = TokenConcatNeck()(state)[0].flatten(2).transpose(1, 2)
    left = found.clone()
    wanted = vit.vit.norm(tokens)[:, 1:]
    rows = kept[..., None].expand(-1, -1, 32)
    assert torch.allclose(found.gather(1, rows), last, atol=1e-5)
    left = left.scatter(1, rows, 0.)
    assert torch.allclose(left, wanted.scatter(1, rows, 0.), atol=1e-5)


@torch.no_grad()
def test_who_reads_whom():
    """A pruned token changes what is read of all, not what is read of the
    kept ones."""
    vit, image = backbone(TINY), torch.rand(1, 3, *SIZE)
    changes = {}
    for name in ('cross-attn', 'cross-attn-concat', 'mhsa-concat'):
        neck, found = make(name), []
        for shift in (0., 1.):
            state = vit(image)
            part = state.steps[0].pruned[0]
            part.tokens.add_(shift)
            place = int(part.rows[0]) - 1  # behind the class token
            found.append(neck(state)[0].flatten(2))
        differ = (found[0] != found[1]).any(1)[0]
        changes[name] = bool(differ[place]), bool(differ.all())
    assert changes == {'cross-attn': (False, False),
                       'cross-attn-concat': (True, True),
                       'mhsa-concat': (True, True)}


@torch.no_grad()
def test_exits():
    """A pruned patch is classified where it left."""
    vit, neck = backbone(TINY), make('dtop')
    for i, (_, fc) in enumerate(neck.exits):
        fc.weight.zero_()
        fc.bias.fill_(i + 1.)
    maps = neck(vit(torch.rand(2, 3, *SIZE)))
    assert maps[1].shape == (2, 5, 6, 5)
    wanted = maps.state.removal_map()[:, None] + 1
    assert torch.equal(maps[1], wanted.expand(-1, 5, -1, -1).float())
    none = backbone(TINY, reducer=None)
    assert not neck(none(torch.rand(2, 3, *SIZE)))[1].any()


@pytest.mark.parametrize('share', [(0, 1), (1, 1)])
def test_gradients(share):
    """For every weight, at every rate: distributed training waits for it."""
    for name in NECKS:
        vit, neck = backbone().train(), make(name).train()
        vit.set_progress(share)
        maps = neck(vit(torch.rand(2, 3, *SIZE)))
        sum(m.square().sum() for m in maps).backward()
        missing = [key for key, weight in neck.named_parameters()
                   if weight.grad is None]
        assert not missing, (name, missing)


def test_wrong_use():
    with pytest.raises(TypeError, match='TokenConcatNeck takes the TokenS'):
        TokenConcatNeck()(torch.rand(1, 32, 6, 5))
    with pytest.raises(ValueError, match='num_heads=3 does not divide'):
        MHSAConcatNeck(32, 3)
    with pytest.raises(ValueError, match='grid .h, w. of the training crop'):
        CrossAttnNeck(32, 2, 30)
    with pytest.raises(ValueError, match='a reducer of this model merges'):
        vit = backbone(reducer=dict(
            type='mmcropr.ToMe', keep=[20, 12], modules=[0, 1], align=1))
        make('dtop')(vit(torch.rand(1, 3, *SIZE)))


@pytest.mark.parametrize('changes, text', [
    ({'neck.num_modules': 2}, 'set num_modules=3'),
    ({'neck.in_channels': 32}, 'set in_channels=96'),
    ({'backbone.fuse_at': 3}, 'nothing to fuse'),
])
def test_checks(changes, text):
    """What does not fit is said before training."""
    cfg = Config.fromfile(
        ROOT / f'configs/cropr/cropr-tpr78-dtop_{DIGITS}.py')
    init_default_scope('mmseg')
    check_model(MODELS.build(cfg.model))
    cfg.merge_from_dict({f'model.{k}': v for k, v in changes.items()})
    with pytest.raises(ValueError, match=text):
        check_model(MODELS.build(cfg.model))


def test_exits_of_other_classes():
    head = MODELS.build(
        dict(type='mmcropr.DToPHead', in_channels=32, num_classes=4))
    maps = FeatureMaps([torch.rand(1, 32, 6, 5), torch.rand(1, 5, 6, 5)])
    with pytest.raises(ValueError, match='DToPNeck., num_classes=4'):
        head(maps)
    with pytest.raises(ValueError, match='export the whole model'):
        head((maps[0], maps[1][:, :4]))  # as of an exported encoder


@pytest.mark.parametrize('name', NECKS)
def test_digits_config(name):
    """One step of the config as it is: losses, then a prediction."""
    cfg = Config.fromfile(
        ROOT / f'configs/cropr/cropr-tpr78-{name}_{DIGITS}.py')
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model)
    check_model(model)
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    sample = SegDataSample(gt_sem_seg=PixelData(
        data=torch.randint(0, 11, (1, 96, 96))))
    losses = model.train()(torch.rand(1, 3, 96, 96), [sample], mode='loss')
    assert losses['decode.loss_ce'].isfinite()
    logits = model.eval()(torch.rand(1, 3, 96, 96), mode='tensor')
    assert logits.shape == (1, 11, 96, 96)


@pytest.mark.parametrize('name, params, macs', [
    ('token-concat', 304e6, 172e9), ('cross-attn', 319e6, 184e9),
    ('cross-attn-concat', 319e6, 186e9), ('mhsa-concat', 318e6, 186e9),
    ('dtop', 308e6, 174e9)])
def test_published_costs(name, params, macs, tmp_path, monkeypatch):
    """The fusion table of the paper; LLF and no pruning have tests of their
    own."""
    out = tmp_path / 'out.json'
    monkeypatch.setattr(sys, 'argv', [
        'get_flops.py', str(ROOT / f'configs/cropr/cropr-r40-{name}_{ROW}.py'),
        '--json', str(out)])
    load_tool('analysis_tools/get_flops.py').main()
    found = json.loads(out.read_text())
    assert found['params'] == pytest.approx(params, rel=0.01)
    assert found['linear_macs'] == pytest.approx(macs, rel=0.02)
    assert found['tokens_per_block'][-1] == 144


@torch.no_grad()
def test_more_blocks_on_all_tokens():
    """``fuse_at`` of the backbone: LLF with two blocks."""
    vit, image = backbone(TINY, fuse_at=-2), torch.rand(1, 3, *SIZE)
    x = vit(image).full()
    for block in vit.vit.blocks[-2:]:
        x = block(x)
    found = LLFNeck()(vit(image))[0].flatten(2).transpose(1, 2)
    assert torch.allclose(found, vit.vit.norm(x)[:, 1:], atol=1e-5)


@torch.no_grad()
def test_filling_is_not_read():
    """Behind ATS, which keeps another number of tokens for every image."""
    reducer = dict(type='mmcropr.ATS', keep=[20, 12], modules=[0, 1], align=1)
    vit, neck = backbone(TINY, reducer=reducer), make('cross-attn')
    vit.vit.blocks[0].attn.qkv.weight *= 100  # attends to few
    image, found = torch.rand(4, 3, *SIZE), []
    for _ in range(2):
        state = vit(image)
        state.finish_block()
        assert not state.mask.all()
        state.x = torch.where(state.mask[..., None], state.x,
                              torch.randn_like(state.x))
        found.append(neck(state)[0])
    torch.testing.assert_close(*found)
