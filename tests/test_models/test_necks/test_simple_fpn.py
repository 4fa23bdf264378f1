# Copyright (c) mmcropr contributors.
import pytest
import torch
from mmcv.ops import roi_align
from torch import nn
from torch.nn import functional as F
from torchvision.ops import roi_align as torchvision_roi_align

from mmcropr.models import CroprViT, LLFNeck, SimpleFPN
from mmcropr.structures import FeatureMaps
from tests.utils import TINY


@pytest.mark.parametrize('patch, strides', [
    (16, [4, 8, 16, 32, 64]),
    (8, [4, 8, 16, 32, 64]),
    (14, [3.5, 7, 14, 28, 56]),
    (32, [4, 8, 16, 32, 64]),
])
def test_default_strides_are_those_of_detectors(patch, strides):
    neck = SimpleFPN(32, 16, num_outs=5, patch_size=patch)
    assert neck.strides == strides
    size = 4 * 32 if patch != 14 else 4 * 28
    maps = neck([torch.rand(2, 32, size // patch, size // patch)])
    assert len(maps) == 5
    for level, stride in zip(maps, strides):
        side = -(-size // stride)
        assert level.shape == (2, 16, side, side)


@pytest.mark.parametrize('num_outs', [1, 2, 4, 6])
def test_any_number_of_outputs(num_outs):
    maps = SimpleFPN(32, 16, num_outs=num_outs)([torch.rand(1, 32, 8, 12)])
    assert len(maps) == num_outs
    assert maps[0].shape == (1, 16, 32, 48)


def test_levels_by_hand():
    """The finest and the coarsest level of ViTDet, step by step."""
    torch.manual_seed(0)
    neck = SimpleFPN(32, 16, num_outs=5)
    for parameter in neck.parameters():
        nn.init.normal_(parameter, std=.3)
    x = torch.randn(2, 32, 6, 6)
    maps = neck([x])

    def norm(y, layer):
        mean = y.mean(1, keepdim=True)
        var = y.var(1, unbiased=False, keepdim=True)
        y = (y - mean) / (var + 1e-6).sqrt()
        return (y * layer.weight[:, None, None] + layer.bias[:, None, None])

    def project(y, level):
        first, second = level[-2], level[-1]
        y = norm(F.conv2d(y, first.conv.weight), first.bn)
        return norm(F.conv2d(y, second.conv.weight, padding=1), second.bn)

    level = neck.levels[0]
    y = F.conv_transpose2d(x, level[0].weight, level[0].bias, stride=2)
    y = F.gelu(norm(y, level[1]))
    y = F.conv_transpose2d(y, level[3].weight, level[3].bias, stride=2)
    torch.testing.assert_close(maps[0], project(y, level), rtol=1e-4,
                               atol=2e-5)
    y = F.max_pool2d(x, 2)
    torch.testing.assert_close(maps[3], project(y, neck.levels[3]), rtol=1e-4,
                               atol=2e-5)
    assert maps[4].equal(maps[3][..., ::2, ::2])


def test_odd_maps_keep_their_border():
    maps = SimpleFPN(32, 16)([torch.rand(1, 32, 5, 7)])
    assert [tuple(m.shape[-2:]) for m in maps] == [
        (20, 28), (10, 14), (5, 7), (3, 4), (2, 2)]


@pytest.mark.parametrize('out_type', ['tokens', 'featmap'])
def test_regions_of_the_maps(out_type):
    """RoIAlign of mmcv reads memory as if maps were contiguous."""
    backbone = CroprViT(TINY, img_size=64, out_type=out_type)
    maps = backbone(torch.rand(2, 3, 64, 64))
    if out_type == 'tokens':
        maps = LLFNeck()(maps)
    rois = torch.tensor([[0., 3, 5, 40, 60], [1., 0, 0, 30, 20]])
    for level in (*maps, *SimpleFPN(32, 16)(maps)):
        wanted = torchvision_roi_align(
            level, rois, 7, level.shape[-1] / 64, sampling_ratio=2,
            aligned=True)
        found = roi_align(level, rois, (7, 7), level.shape[-1] / 64, 2)
        torch.testing.assert_close(found, wanted)


def test_passes_the_state_on():
    backbone = CroprViT(
        TINY, img_size=64, patch_size=16, out_type='tokens',
        reducer=dict(type='mmcropr.Random', rate=2, align=1))
    maps = LLFNeck()(backbone(torch.rand(1, 3, 64, 64)))
    found = SimpleFPN(32, 16)(maps)
    assert isinstance(found, FeatureMaps) and found.state is maps.state


@pytest.mark.parametrize('options, message', [
    (dict(strides=[4, 12]), 'cannot reach a stride of 12 px from patches of '
     '16 px.*4, 8, 16, 32'),
    (dict(strides=[4], patch_size=14), 'cannot reach a stride of 4 px.*3.5'),
    (dict(strides=[0]), 'cannot reach a stride of 0'),
    (dict(strides=[8, 4]), 'must ascend'),
    (dict(strides=[4, 8, 16], num_outs=2), 'from one to num_outs=2'),
    (dict(num_outs=0), 'num_outs must be 1 or more'),
])
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        SimpleFPN(32, 16, **options)


def test_needs_llf_before_it():
    backbone = CroprViT(TINY, img_size=64, out_type='tokens')
    with pytest.raises(TypeError, match='LLFNeck.*before it'):
        SimpleFPN(32)(backbone(torch.rand(1, 3, 64, 64)))


def test_patch_size_of_the_backbone():
    backbone = CroprViT(TINY, img_size=64, patch_size=8)
    with pytest.raises(ValueError, match='patch_size=16.*set patch_size=8'):
        SimpleFPN(32)(backbone(torch.rand(1, 3, 64, 64)))
