# Copyright (c) mmcropr contributors.
"""What the hosts bring for models works on ours."""
import numpy as np
import pytest
import torch
from mmdet.apis import inference_detector, init_detector
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.apis import FeatureExtractor

from mmcropr.models import CroprViT
from tests.utils import (REDUCERS, TINY, tiny_classifier_config,
                         tiny_detector_config, tiny_digits_config)


@pytest.mark.parametrize('name', REDUCERS)
def test_complexity_of_backbones(name):
    """The tracer of mmengine follows every reducer, and finds less work than
    without one."""
    reducer = dict(
        type=f'mmcropr.{name}', keep=[12, 8], modules=[0, 1], align=1)
    found, plain = (
        get_model_complexity_info(
            CroprViT(TINY, img_size=64, reducer=cfg).eval(), (3, 64, 64),
            show_table=False, show_arch=False)['flops']
        for cfg in (reducer, None))
    assert 0.6 * plain < found < plain


def test_complexity_of_a_segmentor(digits, tmp_path):
    cfg = tiny_digits_config(digits, tmp_path)
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model).eval()
    found = get_model_complexity_info(
        model, None, inputs=(torch.rand(1, 3, 64, 64), ), show_table=False,
        show_arch=False)
    assert found['flops'] > 1e5


def test_init_detector(digits, tmp_path):
    """With options, even none, it looks for no backbone in the config of a
    wrapper."""
    cfg = tiny_detector_config(digits, tmp_path)
    model = init_detector(Config(cfg.to_dict()), device='cpu', cfg_options={})
    assert type(model).__name__ == 'CroprDetector'
    image = np.zeros((64, 64, 3), np.uint8)
    found = inference_detector(model, image)
    assert found.pred_instances.labels.dim() == 1


@pytest.mark.parametrize('stage', ['backbone', 'neck', 'pre_logits'])
def test_feature_extractor(stage, digits, tmp_path):
    cfg = tiny_classifier_config(digits, tmp_path)
    cfg.model.type = 'mmcropr.CroprClassifier'
    init_default_scope('mmpretrain')
    model = MODELS.build(
        dict(cfg.model, data_preprocessor=dict(num_classes=10)))
    model._config = cfg
    extract = FeatureExtractor(model, device='cpu')
    found = extract(
        [np.zeros((64, 64, 3), np.uint8)] * 2, batch_size=2, stage=stage)
    shape = (32, 8, 8) if stage == 'backbone' else (32, )
    assert len(found) == 2
    for feats in found:
        last = feats[-1] if isinstance(feats, tuple) else feats
        assert last.shape == shape
