# Copyright (c) mmcropr contributors.
"""Semi-supervised models with a CroprDetector inside."""
import copy

import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope

from mmcropr.models.checks import check_model
from tests.test_models.test_detectors.test_cropr_detector import batch, wrapper

TRAINING = ConfigDict(
    freeze_teacher=True, sup_weight=1., unsup_weight=4.,
    pseudo_label_initial_score_thr=0., rpn_pseudo_thr=0., cls_pseudo_thr=0.,
    reg_pseudo_thr=100., jitter_times=2, jitter_scale=.06,
    min_pseudo_bbox_wh=(1e-2, 1e-2))


def build():
    init_default_scope('mmdet')
    torch.manual_seed(0)
    return MODELS.build(dict(
        type='SoftTeacher',
        detector=wrapper('faster_rcnn/faster-rcnn_r50_fpn_1x_coco'),
        semi_train_cfg=TRAINING, semi_test_cfg=dict(predict_on='teacher')))


def branch():
    data = batch((128, 128), (128, 128))
    for sample in data['data_samples']:
        sample.set_metainfo(
            dict(homography_matrix=np.eye(3, dtype=np.float32)))
        del sample.gt_instances.masks
    return data


def test_soft_teacher_trains_the_queries():
    model = build().train()
    check_model(model)
    inputs, samples = {}, {}
    for name in ('sup', 'unsup_teacher', 'unsup_student'):
        data = model.student.detector.data_preprocessor(branch(), True)
        inputs[name] = data['inputs']
        samples[name] = data['data_samples']
    losses = model.loss(inputs, samples)
    auxiliary = {key for key in losses if 'aux' in key}
    assert auxiliary and all(key.startswith('sup_') for key in auxiliary), (
        'the auxiliary head learns from labelled images')
    assert any(key.startswith('unsup_') for key in losses)
    parts = [value for value in losses.values() if torch.is_tensor(value)]
    parts += [v for value in losses.values() if isinstance(value, list)
              for v in value]
    sum(part.sum() for part in parts).backward()
    for reducer in model.student.backbone.reducers:
        assert reducer.queries.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.teacher.parameters())


def test_it_predicts_by_the_teacher():
    model = build().eval()
    data = branch()
    inputs = model.student.detector.data_preprocessor(data, False)
    with torch.no_grad():
        found = model.predict(inputs['inputs'],
                              copy.deepcopy(inputs['data_samples']))
        wanted = model.teacher.predict(inputs['inputs'],
                                       inputs['data_samples'])
    assert len(found) == 2
    for one, other in zip(found, wanted):
        assert torch.equal(one.pred_instances.bboxes,
                           other.pred_instances.bboxes)
