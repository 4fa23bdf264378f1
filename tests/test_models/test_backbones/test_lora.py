# Copyright (c) mmcropr contributors.
"""Layers of a block that something else has replaced."""
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmcropr.models import CroprViT
from mmcropr.models.checks import check_model
from tests.test_models.test_heads.test_cls_head import data, model_cfg
from tests.utils import REDUCERS, TINY

lora = pytest.importorskip('mmpretrain.models.peft.lora')


def add_lora(model):
    for block in model.vit.blocks:
        block.attn.qkv = lora.LoRALinear(block.attn.qkv, alpha=1, rank=2)
        nn.init.normal_(block.attn.qkv.lora_up.weight)


def merged(layer):
    plain = layer.original_layer
    change = layer.lora_up.weight @ layer.lora_down.weight * layer.scaling
    plain.weight.data += change
    return plain


@torch.no_grad()
@pytest.mark.parametrize('name', REDUCERS)
def test_reducers_see_what_the_layer_does(name):
    torch.manual_seed(0)
    model = CroprViT(
        TINY, img_size=64, reducer=dict(
            type=f'mmcropr.{name}', keep=[12, 8], modules=[0, 1], align=1)
    ).eval()  # yapf: disable
    add_lora(model)
    image = torch.rand(2, 3, 64, 64)
    torch.manual_seed(1)
    found = model(image)
    for block in model.vit.blocks:
        block.attn.qkv = merged(block.attn.qkv)
    torch.manual_seed(1)
    wanted = model(image)
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-4, atol=1e-5)
    assert found.state.removal_map().equal(wanted.state.removal_map())


def lora_classifier(kind):
    """A classifier whose backbone learns low-rank weights alone."""
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    cfg = model_cfg()
    cfg['type'] = 'mmcropr.CroprClassifier'
    cfg['backbone'] = dict(
        type=kind, module=cfg['backbone'], alpha=2, rank=2,
        targets=[dict(type='qkv')])
    return MODELS.build(cfg)


def test_lora_model_learns_and_keeps_the_queries():
    model = lora_classifier('mmcropr.LoRAModel')
    check_model(model)
    batch = model.data_preprocessor(data(), True)
    model.parse_losses(model(**batch, mode='loss'))[0].backward()
    learning = {n for n, p in model.named_parameters() if p.grad is not None}
    assert learning == {n for n, p in model.named_parameters()
                        if p.requires_grad}
    backbone = {n for n in learning if n.startswith('backbone')}
    assert {n.split('.')[2] for n in backbone} == {'vit', 'reducers'}
    assert all('.lora_' in n for n in backbone if '.vit.' in n)
    state = model.state_dict()
    assert learning == set(state), 'and nothing else of the backbone'
    several = nn.ModuleDict(dict(first=nn.Linear(1, 1), second=model))
    assert {'first.weight', 'first.bias'} < set(several.state_dict())
    other = lora_classifier('mmcropr.LoRAModel')
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if name in learning:
                parameter.zero_()
    found = other.load_state_dict(state, strict=False)
    assert not found.missing_keys and not found.unexpected_keys
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert other.eval()(image).equal(model.eval()(image))
    state.pop('head.fc.weight'), state.pop('backbone.module.reducers.0.'
                                           'queries')
    found = other.load_state_dict(state, strict=False)
    assert sorted(found.missing_keys) == [
        'backbone.module.reducers.0.queries', 'head.fc.weight']


def test_stock_lora_model_is_warned_of():
    with pytest.warns(UserWarning, match="give it type='mmcropr.LoRAModel'"):
        check_model(lora_classifier('LoRAModel'))
