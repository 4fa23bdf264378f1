# Copyright (c) mmcropr contributors.
"""Every config of EoMT for mmdet builds and runs, shrunk; those for mmseg are
among the segmentors of test_configs.py."""
import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config, ConfigDict
from mmengine.registry import (MODELS, PARAM_SCHEDULERS, TRANSFORMS,
                               init_default_scope)

from mmcropr.engine.hooks import MaskAnnealingHook
from tests.test_configs import (EOMT, SIZE, check_gradients, shrink_auxiliary,
                                shrink_backbone)
from tests.utils import ROOT


def shrunk(cfg: Config) -> ConfigDict:
    model = ConfigDict(cfg.model.to_dict())
    detector = model.get('detector', model)
    detector.pop('init_cfg', None)
    shrink_backbone(detector.backbone)
    detector.data_preprocessor.size = (SIZE, SIZE)
    detector.panoptic_head.update(in_channels=32, num_blocks=2)
    detector.train_cfg.num_points = 32
    shrink_auxiliary(model)
    return model


@pytest.mark.parametrize('name', EOMT)
def test_trains_and_predicts(name):
    cfg = Config.fromfile(ROOT / name)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(shrunk(cfg))
    assert ('Cropr' in str(cfg.model.get('detector'))) == (
        'auxiliary_head' in cfg.model)
    head = model.panoptic_head
    things, stuff = head.num_things_classes, head.num_stuff_classes
    data = demo_mm_inputs(
        2, [(3, SIZE, SIZE), (3, SIZE, 48)], [2, 1], num_classes=things,
        with_mask=True, with_semantic=stuff > 0)
    for sample in data['data_samples'] if stuff else ():
        sample.gt_sem_seg.sem_seg.fill_(things)
    model.train()
    inputs = model.data_preprocessor(data, True)
    check_gradients(model, model(**inputs, mode='loss'))
    with torch.no_grad():
        results = model.eval().test_step(data)
    for result in results:
        assert ('pred_panoptic_seg' in result) == (stuff > 0)
        assert ('pred_instances' in result) == (
            stuff == 0 or 'digits' in name)


@pytest.mark.parametrize('name', [n for n in EOMT if 'no_pruning' in n])
def test_facts_agree(name):
    cfg = Config.fromfile(ROOT / name)
    head, backbone = cfg.model.panoptic_head, cfg.model.backbone
    fusion = cfg.model.panoptic_fusion_head
    for key in ('num_things_classes', 'num_stuff_classes'):
        assert head[key] == fusion[key]
    assert backbone.fuse_at == -head.num_blocks
    side = backbone.img_size
    assert tuple(cfg.model.data_preprocessor.size) == (side, side)
    init_default_scope('mmdet')
    for step in cfg.train_pipeline + cfg.test_pipeline:
        TRANSFORMS.build(step)
        size = step.get('scale', step.get('crop_size', (side, side)))
        assert tuple(size) == (side, side)
    hooks = [hook for hook in cfg.custom_hooks
             if hook.type == 'mmcropr.MaskAnnealingHook']
    assert hooks
    for hook in hooks:
        assert len(hook.start) == head.num_blocks
        MaskAnnealingHook(hook.start, hook.end)


def test_schedule_lasts_as_long_as_the_run():
    name = 'eomt_dinov2-l_4xb4-amp-12e_coco-panoptic-640.py'
    cfg = Config.fromfile(ROOT / 'configs/no_pruning' / name)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([dict(params=[weight], pretrained=True)], lr=1)
    scheduler = PARAM_SCHEDULERS.build(
        dict(cfg.param_scheduler[0], optimizer=optimizer, end=88692))
    assert scheduler.total == 88692 and not scheduler.by_epoch
