# Copyright (c) mmcropr contributors.
import pytest
from mmengine.optim import build_optim_wrapper
from torch import nn

import mmcropr.engine  # noqa: F401
from mmcropr.models import CroprViT
from tests.utils import TINY


def model() -> nn.Module:
    backbone = CroprViT(
        TINY, img_size=64, reducer=dict(type='mmcropr.Cropr', rate=4))
    return nn.ModuleDict(dict(backbone=backbone, head=nn.Linear(32, 3)))


def build(net: nn.Module, **paramwise_cfg) -> dict:
    """Parameter name -> (learning rate, weight decay) of its group."""
    wrapper = build_optim_wrapper(
        net,
        dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=1., weight_decay=0.1),
            constructor='mmcropr.LayerDecayOptimWrapperConstructor',
            paramwise_cfg=paramwise_cfg))
    names = {param: name for name, param in net.named_parameters()}
    return {
        names[param]: (group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups
        for param in group['params']
    }


def test_every_depth():
    net = model()
    found = build(net, layer_decay_rate=0.5)
    assert set(found) == {name for name, _ in net.named_parameters()}
    wanted = {
        'backbone.vit.cls_token': 5,
        'backbone.vit.pos_embed': 5,
        'backbone.vit.patch_embed.proj.weight': 5,
        'backbone.vit.blocks.0.attn.qkv.weight': 4,
        'backbone.vit.blocks.3.mlp.fc2.bias': 1,
        'backbone.vit.norm.weight': 0,
        'backbone.reducers.0.queries': 0,
        'backbone.reducers.1.queries': 0,
        'head.weight': 0,
    }
    for name, power in wanted.items():
        assert found[name][0] == pytest.approx(0.5**power), name


def test_other_settings_keep_their_meaning():
    found = build(
        model(),
        layer_decay_rate=0.5,
        norm_decay_mult=0.,
        bias_decay_mult=0.,
        custom_keys=dict(
            pos_embed=dict(decay_mult=0.), head=dict(lr_mult=10.)))
    assert found['backbone.vit.blocks.1.norm1.weight'][1] == 0
    assert found['backbone.vit.blocks.1.attn.qkv.bias'][1] == 0
    assert found['backbone.vit.blocks.1.attn.qkv.weight'] == (0.5**3, 0.1)
    assert found['backbone.vit.pos_embed'] == (0.5**5, 0.)
    assert found['head.weight'][0] == 10


def test_equal_settings_share_a_group():
    net = model()
    wrapper = build_optim_wrapper(
        net,
        dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=1.),
            constructor='mmcropr.LayerDecayOptimWrapperConstructor',
            paramwise_cfg=dict(layer_decay_rate=0.5)))
    assert len(wrapper.optimizer.param_groups) == 6


def test_frozen_parameters_stay_out():
    net = model()
    net['backbone'].vit.blocks[0].requires_grad_(False)
    found = build(net, layer_decay_rate=0.5)
    assert not any(name.startswith('backbone.vit.blocks.0.') for name in found)


@pytest.mark.parametrize('rate', [None, 0., 1.1])
def test_bad_rate(rate):
    with pytest.raises(ValueError, match='layer_decay_rate in'):
        build(model(), layer_decay_rate=rate)


def test_backbone_without_depths():
    with pytest.raises(ValueError, match='no module with get_layer_depth'):
        build(nn.Linear(2, 2), layer_decay_rate=0.5)


def test_without_a_learning_rate():
    with pytest.raises(ValueError, match=r'set optim_wrapper\.optimizer\.lr, '
                       r"got optimizer=\{'type': 'AdamW'\}"):
        build_optim_wrapper(
            model(),
            dict(
                type='OptimWrapper',
                optimizer=dict(type='AdamW'),
                constructor='mmcropr.LayerDecayOptimWrapperConstructor',
                paramwise_cfg=dict(layer_decay_rate=0.5)))
