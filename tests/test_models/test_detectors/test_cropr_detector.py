# Copyright (c) mmcropr contributors.
"""The training-time wrapper, on a small FCOS and Mask R-CNN of mmdet."""
import copy

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import ConfigDict
from mmengine.registry import HOOKS, MODELS, init_default_scope
from mmengine.runner import load_checkpoint

from mmcropr.models import CroprDetector
from mmcropr.utils.checkpoint import check_checkpoint, check_start
from tests.test_models.test_detectors.test_stock_detectors import stock_model
from tests.utils import TINY

FCOS = 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco'
MASK = 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco'
CROPR = dict(type='mmcropr.Cropr', keep=[40, 16], num_queries=1)


def wrapper(name=FCOS, reducer=CROPR, **auxiliary):
    head = dict(
        type='mmcropr.CroprMultiLabelHead', in_channels=32, num_classes=7,
        num_modules=2)  # yapf: disable
    return dict(
        type='mmcropr.CroprDetector',
        detector=stock_model(name, dict(reducer)),
        auxiliary_head=dict(head, **auxiliary))


def build(cfg=None):
    init_default_scope('mmdet')
    torch.manual_seed(0)
    return MODELS.build(cfg or wrapper())


def batch(*shapes, num_items=None):
    return demo_mm_inputs(
        len(shapes), [(3, *shape) for shape in shapes],
        num_items=num_items or [2] * len(shapes), num_classes=7,
        with_mask=True)


def losses_of(model, data):
    data = model.data_preprocessor(copy.deepcopy(data), True)
    return model(**data, mode='loss')


@pytest.mark.parametrize('name', [FCOS, MASK])
@pytest.mark.parametrize('shapes, num_items', [
    ([(128, 128), (96, 120), (64, 100)], [2, 1, 3]),
    ([(128, 128), (128, 100)], [0, 2]),
    ([(100, 90)], [1]),
    ([(128, 96)], [0]),
])
def test_batches(name, shapes, num_items):
    """Images of different sizes, without objects, alone."""
    model = build(wrapper(name))
    data = batch(*shapes, num_items=num_items)
    total, log = model.parse_losses(losses_of(model, data))
    assert torch.isfinite(total)
    total.backward()
    assert all(r.queries.grad.abs().max() > 0 for r in model.backbone.reducers)
    with torch.no_grad():
        model.eval()
        results = model.test_step(data)
    assert [r.ori_shape for r in results] == [tuple(s) for s in shapes]


def test_losses_are_the_detectors_plus_the_heads():
    model, data = build(), batch((128, 128), (96, 120))
    losses = losses_of(model, data)
    inputs = model.data_preprocessor(copy.deepcopy(data), True)
    own = model.detector(**copy.deepcopy(inputs), mode='loss')
    for key, value in own.items():
        assert losses[key].equal(value), key
    state = model.backbone(inputs['inputs'])
    extra = model.auxiliary_head.loss(state, inputs['data_samples'])
    assert set(losses) - set(own) == {f'aux.{key}' for key in extra}
    for key, value in extra.items():
        assert losses[f'aux.{key}'].equal(value)


def test_gradients_of_the_detector_stay():
    """Auxiliary losses do not reach the backbone."""
    model, data = build(), batch((128, 128))
    losses = losses_of(model, data)
    sum(v for k, v in losses.items() if k.startswith('aux.')).backward()
    assert all(p.grad is None for p in model.detector.backbone.vit.parameters()
               ), 'the tokens are detached'
    assert all(p.grad is not None for p in model.auxiliary_head.parameters())


def test_no_hook_is_left_behind():
    model, data = build(), batch((128, 128))
    losses_of(model, data)
    assert not model.backbone._forward_hooks
    with pytest.raises(ValueError, match='label'):
        data['data_samples'][0].gt_instances.labels[:] = 7
        losses_of(model, data)
    assert not model.backbone._forward_hooks


def test_all_modes():
    model, data = build().eval(), batch((128, 128))
    inputs = model.data_preprocessor(data, False)
    with torch.no_grad():
        raw = model(**inputs, mode='tensor')
        wanted = model.detector(**inputs, mode='tensor')
        assert all(a.equal(b) for x, y in zip(raw, wanted)
                   for a, b in zip(x, y))
        maps = model.extract_feat(inputs['inputs'])
    assert len(maps) == 5
    with pytest.raises(RuntimeError, match='Invalid mode'):
        model(**inputs, mode='x')


def test_test_time_augmentation():
    cfg = dict(
        type='DetTTAModel', module=wrapper(),
        tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=9))
    model, one = build(ConfigDict(cfg)).eval(), batch((128, 128))
    flipped = copy.deepcopy(one)
    for data, flip in ((one, False), (flipped, True)):
        data['data_samples'][0].set_metainfo(
            dict(flip=flip, flip_direction='horizontal' if flip else None))
    both = {
        key: [one[key], flipped[key]] for key in ('inputs', 'data_samples')}
    with torch.no_grad():
        found = model.test_step(both)
    assert len(found) == 1 and len(found[0].pred_instances) <= 9


def test_parts_of_the_detector_for_hooks():
    model = build()
    assert model.bbox_head is model.detector.bbox_head
    assert model.backbone is model.detector.backbone
    assert model.with_bbox and model.with_neck
    with pytest.raises(AttributeError, match='nothing_such'):
        model.nothing_such


def dynamic_vit():
    return dict(
        type='mmcropr.CroprDetector',
        detector=stock_model(FCOS, dict(
            type='mmcropr.DynamicViT', keep=[40, 16])),
        auxiliary_head=dict(type='mmcropr.DynamicViTHead'))


@pytest.mark.parametrize('cfg', [wrapper, dynamic_vit])
def test_hooks_of_mmdet(cfg):
    """NumClassCheckHook of stock configs looks at every num_classes."""
    model = build(cfg())
    hook = HOOKS.build(dict(type='mmdet.NumClassCheckHook'))

    class Runner:
        pass

    runner = Runner()
    runner.model, runner.train_dataloader = model, Runner()
    runner.train_dataloader.dataset = Runner()
    runner.train_dataloader.dataset.metainfo = dict(classes=list('abcdefg'))
    hook.before_train_epoch(runner)
    runner.train_dataloader.dataset.metainfo = dict(classes=list('abc'))
    with pytest.raises(AssertionError, match='does not match'):
        hook.before_train_epoch(runner)


def test_copies_stand_alone():
    """EMA deep-copies the model."""
    model, data = build(), batch((128, 128))
    twin = copy.deepcopy(model)
    wanted, found = losses_of(model, data), losses_of(twin, data)
    assert all(found[k].equal(v) for k, v in wanted.items())
    assert twin.backbone is not model.backbone


def test_data_preprocessor_of_the_wrapper():
    cfg = wrapper()
    preprocessor = cfg['detector'].pop('data_preprocessor')
    cfg['data_preprocessor'] = dict(preprocessor, mean=[1., 2., 3.])
    model = build(cfg)
    assert model.data_preprocessor is model.detector.data_preprocessor
    assert model.data_preprocessor.mean.flatten().tolist() == [1, 2, 3]


def test_checkpoint_of_the_plain_detector(tmp_path):
    """Fine-tuning starts from an unpruned or stripped detector."""
    model, file = build(), tmp_path / 'x.pth'
    plain = {
        k: torch.rand_like(v) if v.is_floating_point() else v
        for k, v in model.detector.state_dict().items()}
    torch.save(dict(state_dict=plain), file)
    check_start(model, str(file))
    check_checkpoint(model, str(file))
    load_checkpoint(model, str(file))
    for key, value in model.detector.state_dict().items():
        assert value.equal(plain[key]), key
    whole = build().state_dict()
    assert model.load_state_dict(whole)  # strict, its own layout
    torch.save(dict(state_dict={'a.b': torch.ones(2)}), file)
    with pytest.raises(ValueError, match='load_from=.* gives 0 of the 82'):
        check_start(model, str(file))


def broken(change):
    cfg = wrapper()
    change(cfg)
    return cfg


@pytest.mark.parametrize('change, error, message', [
    (lambda c: c.pop('auxiliary_head'), ValueError,
     'add auxiliary_head=.*CroprMultiLabelHead.*strip_auxiliary'),
    (lambda c: c.update(detector=dict(type='ResNet', depth=18)), TypeError,
     "'ResNet' is a ResNet, no detector"),
    (lambda c: c['detector'].update(
        backbone=dict(type='ResNet', depth=18), neck=None), ValueError,
     'is ResNet.*mmcropr.CroprViT'),
    (lambda c: c['detector']['backbone'].update(reducer=None), ValueError,
     'no reducer'),
    (lambda c: c['auxiliary_head'].update(num_classes=80), ValueError,
     'num_classes=80, the detector: bbox_head 7'),
    (lambda c: c['auxiliary_head'].update(num_modules=3), ValueError,
     'set num_modules=2'),
    (lambda c: c['auxiliary_head'].update(in_channels=64), ValueError,
     'set in_channels=32'),
    (lambda c: c['detector']['backbone']['reducer'].update(num_queries=64),
     ValueError, 'set num_queries=.image'),
    (lambda c: c['detector']['neck'][1].pop('strides'), ValueError,
     r'bbox_head works on strides \[8, 16, 32, 64, 128\], SimpleFPN gives '
     r'\[4, 8, 16, 32, 64\]'),
    (lambda c: c['detector']['neck'][1].update(num_outs=4), ValueError,
     'set its strides and num_outs accordingly'),
    (lambda c: c['detector']['backbone'].update(patch_size=8), ValueError,
     'set patch_size=8'),
    (lambda c: c['detector']['neck'].pop(0), ValueError,
     'LLFNeck.*the first neck is SimpleFPN'),
])
def test_bad_configs(change, error, message):
    with pytest.raises(error, match=message):
        build(broken(change))


def test_strides_of_rois():
    cfg = wrapper(MASK)
    cfg['detector']['roi_head']['mask_roi_extractor']['featmap_strides'] = [
        8, 16, 32]
    with pytest.raises(ValueError, match='mask_roi_extractor works on'):
        build(cfg)


def test_semi_supervised_detector():
    cfg = dict(
        type='SoftTeacher', detector=stock_model(
            'faster_rcnn/faster-rcnn_r50_fpn_1x_coco', dict(CROPR)),
        semi_train_cfg=dict(freeze_teacher=True), semi_test_cfg=dict())
    with pytest.raises(ValueError, match="'SoftTeacher' holds detectors"):
        build(dict(wrapper(), detector=cfg))


def test_reducer_without_queries():
    with pytest.raises(ValueError, match='Random leaves nothing.*remove '
                       'this head'):
        build(wrapper(reducer=dict(type='mmcropr.Random', keep=[40, 16])))


def test_backbone_run_twice():
    model, data = build(), batch((128, 128))
    inputs = model.data_preprocessor(data, True)
    loss = model.detector.loss

    def twice(*args):
        loss(*copy.deepcopy(args))
        return loss(*args)

    model.detector.loss = twice
    with pytest.raises(RuntimeError, match='FCOS ran its backbone 2 times'):
        model(**inputs, mode='loss')


def test_plain_vit_detector_needs_no_wrapper():
    """Reducers without queries, and featmap backbones, in a stock model."""
    cfg = stock_model(FCOS, None)
    cfg['backbone'].update(
        arch=TINY, out_type='featmap',
        reducer=dict(type='mmcropr.Random', keep=[40, 16]))
    cfg['neck'] = cfg['neck'][1]
    model = build(ConfigDict(cfg))
    assert not isinstance(model, CroprDetector)
    total, _ = model.parse_losses(losses_of(model, batch((128, 128))))
    assert torch.isfinite(total)
