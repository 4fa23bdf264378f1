# Copyright (c) mmcropr contributors.
"""Every config: short, found by the tools, and builds and runs shrunk."""
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS as MMSEG_MODELS

from mmcropr.models.backbones.arch import build_vit
from mmcropr.models.reducers import PruningSchedule
from tests.test_models.test_vectors import samples
from tests.utils import ROOT

CONFIGS = sorted(
    p.relative_to(ROOT).as_posix() for p in ROOT.glob('configs/*/*.py')
    if p.parent.name != '_base_')
SIZE = 64


def shrink(cfg: Config) -> Config:
    """The same architecture with a width of 32, 6 blocks and 64 px images.

    Classes of timm, prefix tokens, the kind of reducer, neck and heads stay;
    the schedule becomes 4 patches off each of the 4 modules.
    """
    model = cfg.model.copy()
    backbone, modules = model.backbone, 4
    arch = backbone.arch
    if not isinstance(arch, str):
        arch = {**arch, 'embed_dim': 32, 'depth': 6, 'num_heads': 2}
    else:
        eva = arch.startswith('eva02')
        arch = dict(
            family='eva' if eva else 'vit', embed_dim=32, depth=6,
            num_heads=2)  # yapf: disable
        if eva:
            arch.update(
                qkv_fused=False, swiglu_mlp=True, scale_mlp=True,
                use_rot_pos_emb=True, ref_feat_shape=(16, 16))
        elif 'reg4' in backbone.arch:
            arch.update(reg_tokens=4, no_embed_class=True, init_values=1e-5)
    patch = backbone.get('patch_size') or 16
    backbone.update(
        arch=arch, img_size=SIZE, patch_size=patch, pretrained=False)
    model.data_preprocessor.update(size=(SIZE, SIZE), test_cfg=None)
    model.decode_head.in_channels = 32
    if backbone.get('reducer'):
        for key in ('keep', 'modules'):
            backbone.reducer.pop(key, None)
        backbone.reducer.rate = 2 if patch == 16 else 12
        if 'num_queries' in backbone.reducer:
            backbone.reducer.num_queries = (SIZE // patch)**2
    if model.get('auxiliary_head'):
        model.auxiliary_head.update(in_channels=32, num_modules=modules)
    if model.test_cfg.mode == 'slide':
        model.test_cfg.update(crop_size=(SIZE, SIZE), stride=(48, 48))
    return model


def test_there_are_configs():
    names = ' '.join(CONFIGS)
    for method in ('cropr-r40', 'random', 'variance', 'attn-topk',
                   'non-salient', 'no_pruning'):
        assert f'{method}' in names
    for trunk in ('eva02-l', 'vit-b', 'vit-l', 'dinov2-b', 'digits-eva'):
        assert trunk in names
    assert 'cityscapes-768x768' in names


@pytest.mark.parametrize('name', CONFIGS)
def test_config(name):
    lines = [
        line for line in (ROOT / name).read_text().splitlines()
        if line and not line.startswith('#')
    ]
    assert len(lines) <= 25, 'a leaf holds differences only'
    assert all(len(line) < 80 for line in lines)
    cfg = Config.fromfile(ROOT / name)
    assert 'mmcropr' in cfg.custom_imports['imports']
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MMSEG_MODELS.build(shrink(cfg))
    labels = torch.randint(0, cfg.model.decode_head.num_classes,
                           (2, SIZE, SIZE))
    image = torch.rand(2, 3, SIZE, SIZE)
    model.train()
    losses = model.loss(image, samples(labels))
    total = sum(v for k, v in losses.items() if 'loss' in k)
    total.backward()
    assert torch.isfinite(total)
    unused = [n for n, p in model.named_parameters() if p.grad is None]
    assert not unused, 'DDP would wait for these for ever'
    with torch.no_grad():
        model.eval()
        sample = samples(labels[:1, :, :SIZE])[0]
        sample.set_metainfo(dict(ori_shape=(80, 100)))
        result = model.predict(torch.rand(1, 3, 64, 80)[..., :SIZE],
                               [sample])[0]
    assert result.pred_sem_seg.data.shape == (1, 80, 100)


@pytest.mark.parametrize('name', CONFIGS)
def test_sizes_fit_together(name, monkeypatch):
    """Of the real config: queries, modules, channels and classes."""
    # timm reads numbers off it while it builds, which meta tensors have not.
    linspace = torch.linspace
    monkeypatch.setattr(torch, 'linspace', lambda *args, **kwargs: linspace(
        *args, **dict(kwargs, device='cpu')))
    model = Config.fromfile(ROOT / name).model
    backbone = model.backbone
    size = (backbone.img_size, ) * 2
    with torch.device('meta'):
        vit = build_vit(backbone.arch, size, backbone.get('patch_size'))
    assert model.decode_head.in_channels == vit.embed_dim
    grid, reducer = vit.patch_embed.grid_size, backbone.get('reducer')
    if reducer is None:
        return
    keys = {k: reducer[k] for k in ('rate', 'keep', 'modules') if k in reducer}
    schedule = PruningSchedule(
        len(vit.blocks), grid, vit.num_prefix_tokens, **keys)
    lengths = schedule.lengths()
    assert all(length % 8 == 0 for length in lengths)
    assert 0.8 < 1 - lengths[-1] / (grid[0] * grid[1]) < 0.9
    if 'num_queries' in reducer:
        assert reducer.num_queries == grid[0] * grid[1]
        head = model.auxiliary_head
        assert head.num_modules == len(schedule)
        assert head.num_classes == model.decode_head.num_classes
        assert head.in_channels == vit.embed_dim


def test_readme_and_makefile_name_existing_files():
    text = (ROOT / 'README.md').read_text() + (ROOT / 'Makefile').read_text()
    for word in text.replace('`', ' ').split():
        if word.startswith(('configs/', 'tools/')) and '.' in word:
            path = word.strip('.,:;()')
            if not set('$<*{[') & set(path):
                assert Path(ROOT / path).exists(), path
