# Copyright (c) mmcropr contributors.
import subprocess
import sys

import pytest
import torch
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS as MMSEG_MODELS
from torch.nn import functional as F

from mmcropr.models import CroprViT, LinearHead
from tests.utils import TINY


def test_logits_lie_on_their_pixels():
    """Padding to whole patches is cut off after upsampling."""
    backbone, head = CroprViT(TINY, img_size=64).eval(), LinearHead(32, 5)
    maps = backbone(torch.rand(1, 3, 60, 70))
    found = head.eval()(maps)
    logits = F.conv2d(maps[0], head.conv_seg.weight, head.conv_seg.bias)
    wanted = F.interpolate(logits, (64, 80), mode='bilinear')[..., :60, :70]
    assert found.shape == (1, 5, 60, 70)
    assert torch.allclose(found, wanted, atol=1e-6)


def test_any_backbone():
    head = LinearHead(32, 5).eval()
    assert head((torch.rand(1, 32, 4, 6), )).shape == (1, 5, 4, 6)


def segmentor(**changes) -> torch.nn.Module:
    init_default_scope('mmseg')
    cfg = dict(
        type='EncoderDecoder',
        backbone=dict(
            type='mmcropr.CroprViT', arch=TINY, img_size=64,
            out_type='tokens',
            reducer=dict(type='mmcropr.Random', rate=4)),
        neck=dict(type='mmcropr.LLFNeck'),
        decode_head=dict(
            type='mmcropr.LinearHead', in_channels=32, num_classes=5),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'))  # yapf: disable
    cfg.update(changes)
    return MMSEG_MODELS.build(cfg)


def test_forgotten_neck():
    model = segmentor(neck=None)
    with pytest.raises(TypeError, match='LLFNeck'):
        model(torch.rand(1, 3, 64, 64), mode='tensor')


def test_neck_behind_feature_maps():
    model = segmentor()
    model.backbone.out_type = 'featmap'
    with pytest.raises(TypeError, match="leave the neck out"):
        model(torch.rand(1, 3, 64, 64), mode='tensor')


@pytest.mark.parametrize('head', [
    dict(type='FCNHead', channels=16, num_convs=1),
    dict(type='UPerHead', channels=16, in_index=[0, 1],
         in_channels=[32, 32], pool_scales=(1, 2)),
    dict(type='SegmenterMaskTransformerHead', channels=32, num_layers=1,
         num_heads=2, embed_dims=32, norm_cfg=dict(type='LN')),
])  # yapf: disable
def test_stock_heads_on_feature_maps(head):
    """The drop-in form: only ``backbone`` differs from a stock config."""
    init_default_scope('mmseg')
    model = MMSEG_MODELS.build(
        dict(
            type='EncoderDecoder',
            backbone=dict(
                type='mmcropr.CroprViT', arch=TINY, img_size=64,
                out_indices=(1, 3),
                reducer=dict(type='mmcropr.Random', rate=4)),
            decode_head=dict(
                dict(in_channels=32, in_index=1, num_classes=5,
                     norm_cfg=dict(type='BN')), **head),
            train_cfg=dict(), test_cfg=dict(mode='whole')))  # yapf: disable
    logits = model(torch.rand(2, 3, 64, 96), mode='tensor')
    logits.sum().backward()
    assert logits.shape[:2] == (2, 5)
    assert model.backbone.vit.patch_embed.proj.weight.grad.abs().sum() > 0


def test_import_without_mmseg():
    """The package imports, and a config is told what is missing."""
    code = '''
import sys
sys.modules['mmseg'] = None
sys.modules['mmdet'] = sys.modules['mmpretrain'] = None
from mmcropr.registry import MODELS
MODELS.build(dict(type='mmcropr.CroprViT', img_size=64, arch=dict(
    family='vit', embed_dim=32, depth=4, num_heads=2)))
try:
    MODELS.build(dict(type='mmcropr.LinearHead', in_channels=1))
except ImportError as error:
    assert 'LinearHead needs mmseg' in str(error), error
    assert 'check_env' in str(error), error
    print('told')
'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True,
                          text=True)
    assert done.stdout.endswith('told\n'), done.stderr
