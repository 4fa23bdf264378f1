# Copyright (c) mmcropr contributors.
"""Layers of a block that something else has replaced."""
import pytest
import torch
from torch import nn

from mmcropr.models import CroprViT
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
