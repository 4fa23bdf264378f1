# Copyright (c) mmcropr contributors.
"""Stock configs of mmdet with nothing but another backbone and neck."""
import copy
from typing import Any

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, init_default_scope

from tests.utils import TINY_EVA, shrink_sizes

SIZE = 128
FPN = [4, 8, 16, 32]
ONE_STAGE = [8, 16, 32]
# Name in mmdet -> strides, levels and channels that its heads ask for
CONFIGS = {
    'faster_rcnn/faster-rcnn_r50_fpn_1x_coco': (FPN, 5, 256),
    'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco': (FPN, 5, 256),
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco': (FPN, 5, 256),
    'retinanet/retinanet_r50_fpn_1x_coco': (ONE_STAGE, 5, 256),
    'atss/atss_r50_fpn_1x_coco': (ONE_STAGE, 5, 256),
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco': (ONE_STAGE, 5, 256),
    'gfl/gfl_r50_fpn_1x_coco': (ONE_STAGE, 5, 256),
    'tood/tood_r50_fpn_1x_coco': (ONE_STAGE, 5, 256),
    'dino/dino-4scale_r50_8xb2-12e_coco': (ONE_STAGE, 4, 256),
    'deformable_detr/deformable-detr_r50_16xb2-50e_coco': (ONE_STAGE, 4, 256),
    'conditional_detr/conditional-detr_r50_8xb2-50e_coco': ([32], 1, 256),
    'rtmdet/rtmdet-ins_s_8xb32-300e_coco': (ONE_STAGE, 3, 128),
    'solov2/solov2_r50_fpn_1x_coco': (FPN, 5, 256),
    'yolox/yolox_s_8xb8-300e_coco': (ONE_STAGE, 3, 128),
}


def stock_model(name: str, reducer: Any) -> dict:
    """Model of a config of mmdet with our backbone and neck."""
    base = f'_base_ = "mmdet::{name}.py"'
    cfg = Config.fromstring(base, '.py')
    model = shrink_sizes(cfg.model.to_dict(), num_classes=7)
    # YOLOX resizes batches by the iteration of a run
    model['data_preprocessor']['batch_augments'] = None
    strides, num_outs, channels = CONFIGS[name]
    model['backbone'] = dict(
        type='mmcropr.CroprViT', arch=TINY_EVA, img_size=SIZE, patch_size=16,
        out_type='tokens', reducer=reducer)  # yapf: disable
    model['neck'] = [
        dict(type='mmcropr.LLFNeck'),
        dict(
            type='mmcropr.SimpleFPN', in_channels=32, out_channels=channels,
            strides=strides, num_outs=num_outs)]  # yapf: disable
    return model


@pytest.mark.parametrize('name', CONFIGS)
def test_stock_detector(name):
    init_default_scope('mmdet')
    detector = stock_model(
        name, dict(type='mmcropr.Cropr', keep=[40, 16], num_queries=1))
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='mmcropr.CroprDetector', detector=detector,
            auxiliary_head=dict(
                type='mmcropr.CroprMultiLabelHead', in_channels=32,
                num_classes=7, num_modules=2)))  # yapf: disable
    model.init_weights()
    # TOOD reads the epoch that the runner leaves there
    MessageHub.get_current_instance().update_info('epoch', 0)
    # The masks of RTMDet-Ins are of one size for the batch
    second = (3, SIZE, SIZE) if 'rtmdet' in name else (3, 100, 120)
    data = demo_mm_inputs(
        2, [(3, SIZE, SIZE), second], num_items=[3, 2], num_classes=7,
        with_mask=True)  # yapf: disable
    inputs = model.data_preprocessor(data, True)
    plain = model.detector(**copy.deepcopy(inputs), mode='loss')
    losses = model(**inputs, mode='loss')
    assert plain and set(plain) == {
        k for k in losses if not k.startswith('aux.')}
    total, _ = model.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total)
    assert {'aux.module0.loss_bce', 'aux.module1.loss_bce'} <= set(losses)
    for reducer in model.backbone.reducers:
        assert reducer.queries.grad.abs().max() > 0
    assert model.backbone.vit.patch_embed.proj.weight.grad.abs().max() > 0
    model.eval()
    with torch.no_grad():
        found = model.test_step(data)
        plain = model.detector.test_step(data)
    assert len(found) == 2
    for ours, wanted in zip(found, plain):
        assert ours.pred_instances.labels.equal(wanted.pred_instances.labels)
        assert ours.pred_instances.scores.equal(wanted.pred_instances.scores)
