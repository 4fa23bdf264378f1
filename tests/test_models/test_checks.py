# Copyright (c) mmcropr contributors.
"""Models whose parts do not fit together, most of them as built here."""

import pytest
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmcropr.models.checks import check_model, find_backbone
from tests.utils import (TINY, run_main, tiny_classifier_config,
                         tiny_detector_config, tiny_digits_config)


def test_model_without_cropr_vit():
    with pytest.raises(ValueError, match='Sequential has 0 mmcropr.CroprViT'):
        find_backbone(nn.Sequential(nn.Linear(1, 1)))


def classifier(reducer='ToMe', **options):
    init_default_scope('mmpretrain')
    cfg = dict(
        type='ImageClassifier',
        backbone=dict(
            type='mmcropr.CroprViT', arch=TINY, img_size=64,
            out_type='tokens', reducer=dict(
                type=f'mmcropr.{reducer}', keep=[9, 5], modules=[0, 1],
                align=1)),
        neck=dict(type='mmcropr.PoolNeck'),
        head=dict(type='LinearClsHead', in_channels=32, num_classes=5))
    return MODELS.build({**cfg, **options})


@pytest.mark.parametrize('options, message', [
    (dict(head=dict(type='LinearClsHead', in_channels=64, num_classes=5)),
     'LinearClsHead has in_channels=64, the backbone gives 32 channels'),
    (dict(neck=None), 'or for a classifier .*PoolNeck'),
    (dict(neck=dict(type='GlobalAveragePooling')), 'PoolNeck.*first neck is '
     'GlobalAveragePooling'),
    (dict(reducer='Cropr'), 'Cropr learns .* add .*CroprClsHead'),
    (dict(reducer='DynamicViT'), 'DynamicViT learns .*DynamicViTClsHead'),
    (dict(reducer='Cropr', head=dict(
        type='mmcropr.CroprClsHead', in_channels=32, num_classes=5,
        num_modules=3)), 'num_modules=3, the reducers .* are 2'),
])
def test_classifiers(options, message):
    check_model(classifier())
    with pytest.raises(ValueError, match=message):
        check_model(classifier(**options))


def test_widths_of_the_other_tasks(digits, tmp_path):
    init_default_scope('mmseg')
    cfg = tiny_digits_config(digits, tmp_path).model
    check_model(MODELS.build(cfg))
    cfg.decode_head.in_channels = 64
    with pytest.raises(ValueError, match='LinearHead has in_channels=64, '):
        check_model(MODELS.build(cfg))
    init_default_scope('mmdet')
    cfg = tiny_detector_config(digits, tmp_path).model
    check_model(MODELS.build(cfg))
    cfg.detector.neck[1].in_channels = 64
    with pytest.raises(ValueError, match='SimpleFPN has in_channels=64, the '
                       'backbone gives 32 channels: set in_channels=32'):
        MODELS.build(cfg)


def test_train_asks_without_the_hook(digits, tmp_path):
    """What learns through a head would train silently without one."""
    cfg = tiny_classifier_config(digits, tmp_path / 'run')
    cfg.model.head.type = 'LinearClsHead'
    cfg.model.head.pop('num_modules')
    cfg.custom_hooks = []
    cfg.default_hooks.pop('model_check')
    cfg.dump(tmp_path / 'c.py')
    done = run_main('train.py', tmp_path / 'c.py')
    assert done.returncode == 1
    assert 'error: Cropr learns through an auxiliary head' in done.stderr
    assert 'Traceback' not in done.stderr
