# Copyright (c) mmcropr contributors.
"""Heads that read other levels than a pyramid has, and those that may."""
import copy

import pytest
import torch
from mmdet.models.task_modules import AnchorGenerator
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmcropr.models import CroprViT, HostNeck, LLFNeck, SimpleFPN
from mmcropr.models.checks import check_model
from mmcropr.models.necks import check_pyramid
from mmcropr.structures import FeatureMaps
from tests.utils import TINY, TINY_EVA, shrink_sizes


class Reader(nn.Module):
    """What a detector reads its levels with."""

    def __init__(self, **attributes):
        super().__init__()
        vars(self).update(attributes)


def priors(*strides):
    return AnchorGenerator(
        strides=list(strides), ratios=[1.], scales=[8])


def detector(*behind, strides=(4, 8, 16, 32), num_outs=5, **heads):
    init_default_scope('mmdet')
    necks = [LLFNeck(), SimpleFPN(
        32, 32, strides=list(strides), num_outs=num_outs)]
    necks += [MODELS.build(neck) for neck in behind]
    return nn.ModuleDict(
        dict(backbone=CroprViT(TINY, img_size=64), neck=nn.Sequential(*necks),
             **heads))


def check(model):
    for name, module in model.items():
        setattr(model, name, module)
    check_pyramid(model)


@pytest.mark.parametrize('name, attributes', [
    ('bbox_head', dict(prior_generator=priors(4, 8, 16, 32, 64))),
    ('bbox_roi_extractor', dict(featmap_strides=[4, 8, 16, 32])),
    ('semantic_roi_extractor', dict(featmap_strides=[8])),
    ('mask_head', dict(prior_generator=priors(8))),
    ('bbox_head', dict(prior_generator=priors(7.9, 15.8))),
])
def test_levels_that_are_there(name, attributes):
    check(detector(**{name: Reader(**attributes)}))


DYHEAD = dict(type='DyHead', in_channels=32, out_channels=32, num_blocks=1)
BFP = dict(type='BFP', in_channels=32, num_levels=5)


@pytest.mark.parametrize('name, attributes, message', [
    ('bbox_head', dict(prior_generator=priors(8, 16, 32, 64, 128)),
     r'bbox_head works on strides \[8, 16, 32, 64, 128\]'),
    ('bbox_roi_extractor', dict(featmap_strides=[8, 16]), r'\[8, 16\]'),
    ('mask_head', dict(prior_generator=priors(128)), r'\[128\]'),
    ('bbox_head', dict(prior_generator=priors(4, 8, 16)), r'\[4, 8, 16\]'),
    ('rpn_head', dict(prior_generator=priors(8, 16, 32)), r'\[8, 16, 32\]'),
])
@pytest.mark.parametrize('behind', [(), (DYHEAD, ), (BFP, )])
def test_levels_that_are_not(behind, name, attributes, message):
    with pytest.raises(ValueError, match=message):
        check(detector(*behind, **{name: Reader(**attributes)}))


def test_it_says_nothing_behind_necks_that_change_levels():
    pafpn = dict(type='PAFPN', in_channels=[32] * 5, out_channels=32,
                 num_outs=5)
    check(detector(pafpn, bbox_head=Reader(prior_generator=priors(128))))


def segmentor(neck, head, **backbone):
    init_default_scope('mmseg')
    backbone = dict(
        type='mmcropr.CroprViT', arch=TINY_EVA, img_size=64, **backbone)
    return MODELS.build(dict(
        type='EncoderDecoder', backbone=backbone, neck=neck,
        decode_head=dict(in_channels=32, num_classes=5, channels=32, **head),
        train_cfg=dict(), test_cfg=dict(mode='whole')))


def test_maps_that_a_segmentation_head_reads():
    llf = dict(type='mmcropr.LLFNeck')
    for neck, options in ((llf, dict(out_type='tokens')), (None, dict())):
        check_model(segmentor(neck, dict(type='FCNHead'), **options))
        check_model(segmentor(neck, dict(type='FCNHead', in_index=0),
                              **options))
        with pytest.raises(ValueError, match='FCNHead reads in_index=3, and '
                           'the backbone gives 1 map: set in_index'):
            check_model(segmentor(neck, dict(type='FCNHead', in_index=3),
                                  **options))
    head = dict(type='FCNHead', in_index=2)
    check_model(segmentor(None, head, out_indices=(0, 1, 2)))
    with pytest.raises(ValueError, match='2 maps: .*from 0 to 1'):
        check_model(segmentor(None, head, out_indices=(1, 2)))


@pytest.mark.parametrize('neck, maps', [
    (dict(type='Feature2Pyramid', embed_dim=32, rescales=[4, 2, 1, .5],
          norm_cfg=dict(type='BN')), 4),
    (dict(type='MultiLevelNeck', in_channels=[32, 32], out_channels=32,
          scales=[1, 2]), 2),
])
def test_necks_of_mmseg_keep_the_state_in_a_host_neck(neck, maps):
    from tests.test_models.test_vectors import samples
    init_default_scope('mmseg')
    cfg = dict(
        type='EncoderDecoder',
        backbone=dict(
            type='mmcropr.CroprViT', arch=TINY, img_size=64,
            out_indices=tuple(range(4 - maps, 4)), reducer=dict(
                type='mmcropr.Cropr', rate=4, num_queries='patch')),
        neck=neck,
        decode_head=dict(type='FCNHead', in_channels=[32] * maps, channels=8,
                         num_classes=5, in_index=list(range(maps)),
                         input_transform='resize_concat', num_convs=1,
                         norm_cfg=dict(type='BN')),
        auxiliary_head=dict(type='mmcropr.CroprSegHead', in_channels=32,
                            num_classes=5, num_modules=2),
        train_cfg=dict(), test_cfg=dict(mode='whole'))
    with pytest.raises(ValueError, match=f'{neck["type"]} hands maps on '
                       "without the token state.*mmcropr.HostNeck.*type='"
                       f'{neck["type"]}'):
        check_model(MODELS.build(cfg))
    torch.manual_seed(0)
    model = MODELS.build(dict(cfg, neck=dict(
        type='mmcropr.HostNeck', neck=neck))).train()
    check_model(model)
    losses = model(torch.rand(2, 3, 64, 64),
                   samples(torch.randint(0, 5, (2, 64, 64))), mode='loss')
    model.parse_losses(losses)[0].backward()
    assert 'aux.module1.loss_ce' in losses
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name


def test_host_neck_hands_on_what_has_no_state():
    init_default_scope('mmdet')
    neck = HostNeck(dict(type='FPN', in_channels=[8], out_channels=4,
                         num_outs=2))
    assert [m.shape[1] for m in neck([torch.rand(1, 8, 4, 4)])] == [4, 4]


def test_host_neck_of_one_tensor():
    """A batch is no tuple of maps."""
    init_default_scope('mmpretrain')
    neck = HostNeck(dict(type='LinearNeck', in_channels=8, out_channels=3))
    state = CroprViT(TINY, img_size=64, out_type='tokens')(
        torch.rand(2, 3, 64, 64))
    found = neck(FeatureMaps([torch.rand(4, 8)], state))
    assert [tuple(m.shape) for m in found] == [(4, 3)]
    assert found.state is state


def test_trackers_that_never_ask_for_the_losses():
    inner = nn.ModuleDict(dict(auxiliary_head=nn.Identity()))
    inner.auxiliary_head = inner['auxiliary_head']
    tracker = nn.ModuleDict(dict(detector=inner, track_head=nn.Identity()))
    with pytest.raises(ValueError, match='auxiliary head of a CroprDetector '
                       'in it would learn nothing'):
        check_model(tracker)


def rpn_cfg(**head):
    from tests.test_models.test_detectors.test_stock_detectors import (
        CONFIGS, stock_model)
    CONFIGS['rpn/rpn_r50_fpn_1x_coco'] = ([4, 8, 16, 32], 5, 256)
    detector = stock_model('rpn/rpn_r50_fpn_1x_coco', dict(
        type='mmcropr.Cropr', keep=[40, 16], num_queries='image'))
    del CONFIGS['rpn/rpn_r50_fpn_1x_coco']
    return dict(type='mmcropr.CroprDetector', detector=detector,
                auxiliary_head=dict(
                    type='mmcropr.CroprMultiLabelHead', **head))


def test_detector_of_no_classes():
    init_default_scope('mmdet')
    with pytest.raises(ValueError, match='RPN do not say how many classes the '
                       r'labels have \(none knows\): give num_classes'):
        MODELS.build(rpn_cfg())
    model = MODELS.build(rpn_cfg(num_classes=7))
    check_model(model)
    assert model.auxiliary_head.num_classes == 7


def test_frozen_queries_are_said():
    model = segmentor(
        dict(type='mmcropr.LLFNeck'), dict(type='FCNHead'),
        out_type='tokens', reducer=dict(
            type='mmcropr.Cropr', rate=4, num_queries='patch'))
    model.auxiliary_head = MODELS.build(dict(
        type='mmcropr.CroprSegHead', in_channels=32, num_classes=5,
        num_modules=2))
    check_model(model)
    model.backbone.reducers.requires_grad_(False)
    with pytest.warns(UserWarning, match='no weight of Cropr learns'):
        check_model(model)


@pytest.mark.parametrize('name, levels', [
    ('detr/detr_r50_8xb2-150e_coco', 'DETR reads one map, and SimpleFPN gives '
     '4: .* Set strides=.32. and num_outs=1'),
    ('conditional_detr/conditional-detr_r50_8xb2-50e_coco',
     'ConditionalDETR reads one map'),
    ('mask2former/mask2former_r50_8xb2-lsj-50e_coco', r'pixel_decoder reads '
     r'maps of \[256, 512, 1024, 2048\] channels, SimpleFPN gives 256: set '
     r'in_channels=\[256\] \* 4 in panoptic_head'),
    ('maskformer/maskformer_r50_ms-16xb1-75e_coco', 'set in_channels='),
])
def test_levels_that_nobody_reads(name, levels):
    init_default_scope('mmdet')
    cfg = Config.fromstring(f'_base_ = "mmdet::{name}.py"', '.py').model
    cfg.backbone = dict(type='mmcropr.CroprViT', arch=TINY_EVA, img_size=64,
                        out_type='tokens')
    cfg.neck = [
        dict(type='mmcropr.LLFNeck'),
        dict(type='mmcropr.SimpleFPN', in_channels=32, num_outs=4)]
    cfg = ConfigDict(shrink_sizes(cfg.to_dict()))
    with pytest.raises(ValueError, match=levels):
        check_model(MODELS.build(copy.deepcopy(cfg)))
    if 'mask' in name:
        cfg.panoptic_head.in_channels = [256] * 4
    else:
        cfg.neck[1].update(strides=[32], num_outs=1)
    check_model(MODELS.build(cfg))


def test_detector_that_needs_a_resnet():
    init_default_scope('mmdet')
    name = 'mmdet::tridentnet/tridentnet_r50-caffe_1x_coco.py'
    cfg = Config.fromstring(f'_base_ = "{name}"', '.py').model
    cfg.backbone = dict(
        type='mmcropr.CroprViT', arch=TINY, img_size=64, out_type='tokens',
        reducer=dict(type='mmcropr.Cropr', rate=4))
    cfg.neck = [dict(type='mmcropr.LLFNeck')]
    with pytest.raises(ValueError, match="'TridentFasterRCNN' asks its "
                       'backbone for what a plain ViT has not.*num_branch'):
        MODELS.build(dict(
            type='mmcropr.CroprDetector', detector=cfg,
            auxiliary_head=dict(type='mmcropr.CroprMultiLabelHead')))
