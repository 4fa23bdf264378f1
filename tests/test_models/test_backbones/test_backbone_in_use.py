# Copyright (c) mmcropr contributors.
"""What users do to a backbone besides running it."""
import copy

import pytest
import torch
from mmengine.runner import Runner

from mmcropr.models import CroprViT
from tests.utils import TINY, tiny_digits_config


def backbone(**changes) -> CroprViT:
    settings = dict(
        arch=TINY, img_size=64, out_type='tokens',
        reducer=dict(type='mmcropr.Cropr', rate=4, num_queries=16))
    return CroprViT(**{**settings, **changes})


def test_unknown_key_of_a_reducer():
    with pytest.raises(TypeError, match='num_queris.*rate, tpr, keep'):
        backbone(reducer=dict(type='mmcropr.Cropr', rate=4, num_queris=16))


def test_tpr_that_alignment_misses():
    with pytest.warns(UserWarning, match='tpr=0.5 becomes .*TPR 31.2%'):
        backbone(reducer=dict(type='mmcropr.Random', tpr=0.5, align=12))


def test_replaced_vit_is_used():
    model = backbone(out_type='featmap').eval()
    image = torch.rand(1, 3, 64, 64)
    model.vit = copy.deepcopy(model.vit)
    torch.nn.init.zeros_(model.vit.norm.weight)
    torch.nn.init.zeros_(model.vit.norm.bias)
    assert model(image)[0].abs().sum() == 0


def test_nothing_runs_behind_the_last_map():
    model = backbone(out_type='featmap', out_indices=(0, 1)).train()
    model.vit.blocks[2].forward = None  # would raise if it ran
    maps = model(torch.rand(1, 3, 64, 64))
    assert len(maps) == 2
    sum(m.sum() for m in maps).backward()
    unused = [n for n, p in model.vit.named_parameters()
              if p.requires_grad and p.grad is None]
    assert not unused


def test_weights_of_a_run_of_ours(digits, tmp_path):
    """With their logs: by ``pretrained`` or by ``init_cfg``."""
    cfg = tiny_digits_config(digits, tmp_path, train_cfg__max_epochs=1)
    runner = Runner.from_cfg(cfg)
    runner.train()
    file = str(tmp_path / 'epoch_1.pth')
    settings = dict(cfg.model.backbone)
    settings.pop('type')
    model = CroprViT(**settings, pretrained=file)
    model.init_weights()
    wanted = runner.model.backbone.vit.state_dict()
    for key, value in model.vit.state_dict().items():
        assert torch.equal(value, wanted[key]), key
    model = CroprViT(
        **settings,
        init_cfg=dict(type='Pretrained', checkpoint=file, prefix='backbone.'))
    model.init_weights()
    wanted = runner.model.backbone.state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value, wanted[key]), key
