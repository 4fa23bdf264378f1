# Copyright (c) mmcropr contributors.
"""Work from sizes alone is what is counted in a forward pass."""
import pytest

from mmcropr.models import CroprViT, LLFNeck, PoolNeck
from mmcropr.models.backbones.lora import LoRAModel
from mmcropr.models.work import encoder_work
from mmcropr.utils.build import Encoder
from tests.utils import TINY, load_tool

flops = load_tool('analysis_tools/get_flops.py')
EVA = dict(family='eva', embed_dim=32, depth=4, num_heads=2,
           use_rot_pos_emb=True, swiglu_mlp=True, mlp_ratio=8 / 3)


@pytest.mark.parametrize('arch', [TINY, EVA])
@pytest.mark.parametrize('reducer', [
    None, dict(type='mmcropr.Random', rate=4, align=1),
    dict(type='mmcropr.TopK', rate=4, align=1)])
@pytest.mark.parametrize('neck', [LLFNeck(), PoolNeck(pool='cls')])
def test_as_counted(arch, reducer, neck):
    """But for the little that a reducer itself computes."""
    llf = isinstance(neck, LLFNeck)
    backbone = CroprViT(arch, img_size=64, out_type='tokens',
                        fuse_at=-1 if llf else None, reducer=reducer).eval()
    neck.init_weights()
    model = type('Model', (), dict(backbone=backbone, neck=neck))()
    work = encoder_work(backbone, neck)
    counted = flops.macs_of(
        flops.count_flops(Encoder(model), (1, 3, 64, 64))[0])
    assert sum(work.macs) + work.embed == pytest.approx(
        counted['total_macs'], rel=.01)
    assert (work.ratio == 1) == (reducer is None)
    full = 16 + backbone.trunk.num_prefix
    assert work.tokens[0] == full
    assert work.tokens[-1] == (full if llf or not reducer else
                               backbone.lengths()[-1])


def test_inside_lora():
    """What replaces a layer may hold it."""
    plain = CroprViT(TINY, img_size=64)
    model = LoRAModel(
        module=dict(type='mmcropr.CroprViT', arch=TINY, img_size=64), alpha=1,
        rank=2, targets=[dict(type='qkv'), dict(type='proj')])
    added = 2 * (32 + 96) + 2 * (32 + 32)
    for with_lora, without in zip(encoder_work(model.module).macs,
                                  encoder_work(plain).macs):
        assert with_lora - without == 17 * added
