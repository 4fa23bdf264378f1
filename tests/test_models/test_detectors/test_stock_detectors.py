# Copyright (c) mmcropr contributors.
"""Stock configs of mmdet with nothing but another backbone and neck."""
import copy
from typing import Any

import pytest
import torch
from mmdet.models.data_preprocessors import data_preprocessor
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, init_default_scope

from mmcropr.models.checks import check_model
from tests.utils import SMALLER, TINY_EVA, shrink_sizes

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
    # Heads that read some of the levels
    'htc/htc_r50_fpn_1x_coco': (FPN, 5, 256),
    'condinst/condinst_r50_fpn_ms-poly-90k_coco_instance': (
        ONE_STAGE, 5, 256),
    'boxinst/boxinst_r50_fpn_ms-90k_coco': (ONE_STAGE, 5, 256),
    # A neck behind the pyramid
    'dyhead/atss_r50_fpn_dyhead_1x_coco': (ONE_STAGE, 5, 256),
    'libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco': (FPN, 5, 256),
    'panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco': (FPN, 5, 256),
    'mask2former/mask2former_r50_8xb2-lsj-50e_coco': (FPN, 4, 256),
    'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco': (FPN, 4, 256),
    'vfnet/vfnet_r50_fpn_1x_coco': (ONE_STAGE, 5, 256),
}
# Their heads' sizes depend on each other
WHOLE = ('condinst', 'boxinst')


def stock_model(name: str, reducer: Any) -> dict:
    """Model of a config of mmdet with our backbone and neck."""
    base = f'_base_ = "mmdet::{name}.py"'
    cfg = Config.fromstring(base, '.py')
    model, family = cfg.model.to_dict(), name.split('/')[0]
    behind = model.get('neck')
    behind = behind[1:] if isinstance(behind, list) else []
    model = shrink_sizes(
        model, {} if family in WHOLE else SMALLER, num_classes=7,
        num_things_classes=7)  # yapf: disable
    if family == 'mask2former':
        model['panoptic_head'].update(
            in_channels=[256] * 4, strides=[4, 8, 16, 32], num_stuff_classes=0)
        weights = [1.] * 7 + [.1]
        model['panoptic_head']['loss_cls']['class_weight'] = weights
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
            strides=strides, num_outs=num_outs),
        *behind]  # yapf: disable
    return model


@pytest.mark.parametrize('name', CONFIGS)
def test_stock_detector(name):
    if name.startswith('boxinst') and getattr(
            data_preprocessor, 'skimage', True) is None:
        pytest.skip('its preprocessor needs scikit-image')
    init_default_scope('mmdet')
    detector = stock_model(
        name, dict(type='mmcropr.Cropr', keep=[40, 16], num_queries=1))
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='mmcropr.CroprDetector', detector=detector,
            auxiliary_head=dict(type='mmcropr.CroprMultiLabelHead')))
    check_model(model)
    model.init_weights()
    # TOOD reads what the runner leaves there, BoxInst the iteration
    MessageHub.get_current_instance().update_info('epoch', 0)
    MessageHub.get_current_instance().update_info('iter', 0)
    # The masks of RTMDet-Ins are of one size for the batch
    second = (3, SIZE, SIZE) if 'rtmdet' in name else (3, 100, 120)
    data = demo_mm_inputs(
        2, [(3, SIZE, SIZE), second], num_items=[3, 2], num_classes=7,
        with_mask=True, with_semantic=name.startswith(('htc', 'panoptic')))
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
        if name.startswith('panoptic'):
            assert ours.pred_panoptic_seg.sem_seg.equal(
                wanted.pred_panoptic_seg.sem_seg)
            continue
        assert ours.pred_instances.labels.equal(wanted.pred_instances.labels)
        assert ours.pred_instances.scores.equal(wanted.pred_instances.scores)
