# Copyright (c) mmcropr contributors.
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.models.losses import SiLogLoss
from mmseg.structures import SegDataSample

from mmcropr.models import CroprDepthHead, CroprViT
from mmcropr.models.checks import check_model
from tests.utils import TINY


def backbone(**options) -> CroprViT:
    reducer = dict(
        type='mmcropr.Cropr', rate=4, align=1, num_queries='patch')
    return CroprViT(TINY, out_type='tokens', **{
        'img_size': 64, 'reducer': reducer, **options}).train()


def depth_samples(depth: torch.Tensor) -> list:
    """Of depth maps (B, H, W)."""
    result = []
    for one in depth:
        size = tuple(one.shape)
        sample = SegDataSample(
            metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size))
        sample.gt_depth_map = PixelData(data=one[None])
        result.append(sample)
    return result


def test_mean_depth_of_what_was_measured():
    state = backbone(
        img_size=(64, 80))(torch.rand(1, 3, 60, 75))  # padded to 64 x 80
    depth = torch.zeros(1, 60, 75)
    depth[0, :16, :8] = 2.  # half of a patch
    depth[0, 16:24, :16], depth[0, 24:32, :16] = 1., 4.
    depth[0, 48:, 64:] = 3.  # reaches into the padding
    found = CroprDepthHead(32, 2).targets(state, depth_samples(depth))
    assert found.images is None
    wanted = torch.zeros(4, 5)
    wanted[0, 0], wanted[1, 0], wanted[3, 4] = 2., 2.5, 3.
    torch.testing.assert_close(found.depth[0, 0], wanted)


def test_loss_by_hand():
    torch.manual_seed(0)
    model = backbone()
    head = CroprDepthHead(
        32, 2, max_depth=5.,
        loss_decode=[dict(type='mmseg.SiLogLoss', loss_weight=2.),
                     dict(type='mmseg.SiLogLoss', loss_name='loss_other'),
                     dict(type='mmseg.SiLogLoss')])
    depth = torch.rand(2, 64, 64) * 5
    depth[:, :16] = 0
    state = model(torch.rand(2, 3, 64, 64))
    losses = head.loss(state, depth_samples(depth))
    assert sorted(losses) == [f'module{i}.{name}' for i in range(2)
                              for name in ('loss_other', 'loss_silog')]
    logits = head(state)[1]
    found = 5 * logits.sigmoid()[..., 0].view(2, 1, 4, 4)
    wanted = depth[:, None].unfold(2, 16, 16).unfold(3, 16, 16).mean((4, 5))
    # The scale-invariant loss of Eigen et al., NeurIPS 2014, with its root
    d = (found.log() - wanted.log())[:, 0, 1:].flatten(1)
    loss = ((d**2).mean(1) - d.mean(1)**2 / 2).sqrt().mean()
    torch.testing.assert_close(losses['module1.loss_silog'], 3 * loss)
    torch.testing.assert_close(losses['module1.loss_other'], loss)
    sum(losses.values()).backward()
    assert all(r.queries.grad.abs().max() > 0 for r in model.reducers)
    assert all(p.grad is None for p in model.vit.parameters())


@pytest.mark.parametrize('measured', [1, 0])
def test_image_without_depth(measured):
    """It would be a root of 0, whose gradient is infinite."""
    torch.manual_seed(0)
    model, head = backbone(), CroprDepthHead(32, 2)
    depth = torch.rand(2, 64, 64) + 1
    depth[measured:] = 0
    state = model(torch.rand(2, 3, 64, 64))
    losses = head.loss(state, depth_samples(depth))
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())
    targets = head.targets(state, depth_samples(depth))
    logits = head(state)[0]
    found = head.loss_by_logits(logits, targets)['loss_silog']
    wanted = SiLogLoss()(
        10 * logits[:1].sigmoid().view(1, 1, 4, 4),
        targets.depth) if measured else torch.tensor(0.)
    torch.testing.assert_close(found, wanted)


def test_half_precision():
    head = CroprDepthHead(32, 2)
    state = backbone()(torch.rand(1, 3, 64, 64))
    targets = head.targets(state, depth_samples(torch.rand(1, 64, 64) + 1))
    logits = -15 + torch.randn(1, 16, 1, dtype=torch.float16)
    found = head.loss_by_logits(logits, targets)['loss_silog']
    wanted = head.loss_by_logits(logits.float(), targets)['loss_silog']
    assert found.dtype == torch.float32 and torch.equal(found, wanted)


def test_bad_input():
    model, head = backbone(), CroprDepthHead(32, 2)
    state = model(torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match='comes without gt_depth_map: load '
                       'it by .*LoadDepthAnnotation'):
        head.loss(state, [SegDataSample()])
    with pytest.raises(ValueError, match='max_depth is a depth in metres'):
        CroprDepthHead(32, 2, max_depth=0)
    other = backbone(reducer=dict(type='mmcropr.Cropr', rate=4, num_queries=1))
    with pytest.raises(ValueError, match='depth estimation trains one query '
                       "per patch: set num_queries=16 or 'patch'"):
        head.check_backbone(other)


VPD = dict(
    type='VPDDepthHead', in_channels=[16] * 4, feature_dim=32, embed_dim=4)
DPT = dict(
    type='mmcropr.DPTDepthHead', in_channels=[32] * 4, channels=8,
    embed_dims=32, post_process_channels=[8, 8, 8, 8], in_index=(0, 1, 2, 3),
    input_transform='multiple_select')
PYRAMID = [
    dict(type='mmcropr.LLFNeck'),
    dict(type='mmcropr.SimpleFPN', in_channels=32, out_channels=16,
         strides=[8, 16, 32, 64], num_outs=4)]


def estimator(head: dict, arch: dict = TINY, **options) -> ConfigDict:
    """Config of a small DepthEstimator around one of mmseg's heads."""
    maps = 'DPT' in head['type']
    return ConfigDict({**dict(
        type='DepthEstimator',
        data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64),
                               seg_pad_val=0),
        backbone=dict(
            type='mmcropr.CroprViT', arch=arch, img_size=64,
            out_type='featmap' if maps else 'tokens',
            out_indices=(0, 1, 2, 3) if maps else -1,
            reducer=dict(type='mmcropr.Cropr', rate=4, align=1,
                         num_queries='patch')),
        neck=dict(type='mmcropr.ReadoutNeck') if maps else PYRAMID,
        decode_head=head,
        auxiliary_head=dict(
            type='mmcropr.CroprDepthHead', in_channels=32, num_modules=2),
        test_cfg=dict(mode='whole')), **options})


@pytest.mark.parametrize('class_token', [True, False])
@pytest.mark.parametrize('head', [VPD, DPT, dict(DPT, readout_type='add'),
                                  dict(DPT, readout_type='project')])
def test_depth_estimators(head, class_token):
    init_default_scope('mmseg')
    torch.manual_seed(0)
    arch = TINY if class_token else dict(
        TINY, class_token=False, global_pool='avg', fc_norm=False)
    model = MODELS.build(estimator(head, arch)).train()
    check_model(model)
    depth = torch.rand(2, 64, 64) * 5
    losses = model.loss(torch.rand(2, 3, 64, 64), depth_samples(depth))
    assert sorted(losses) == ['aux.module0.loss_silog',
                              'aux.module1.loss_silog', 'decode.loss_silog']
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        found = model.eval().predict(
            torch.rand(1, 3, 64, 64), depth_samples(depth[:1]))[0]
    assert found.pred_depth_map.shape == (64, 64)
    assert 0 <= found.pred_depth_map.data.min()
    assert found.pred_depth_map.data.max() <= 10


def test_unlike_tasks():
    """Classes are not compared with the one channel of a depth head, the
    greatest depth is."""
    init_default_scope('mmseg')
    semantics = dict(type='mmcropr.CroprSegHead', in_channels=32,
                     num_classes=5, num_modules=2)
    check_model(MODELS.build(estimator(VPD, auxiliary_head=semantics)))
    deeper = dict(type='mmcropr.CroprDepthHead', in_channels=32,
                  num_modules=2, max_depth=80.)
    with pytest.raises(ValueError, match='the auxiliary head has '
                       'max_depth=80.0, the main head 10.0'):
        check_model(MODELS.build(estimator(VPD, auxiliary_head=deeper)))
    segmentor = estimator(VPD, type='EncoderDecoder', neck=PYRAMID[0],
                          decode_head=dict(type='mmcropr.LinearHead',
                                           in_channels=32, num_classes=5))
    check_model(MODELS.build(segmentor))
    segmentor['auxiliary_head'] = dict(semantics, num_classes=6)
    with pytest.raises(ValueError, match='the auxiliary head has '
                       'num_classes=6, the main head 5'):
        check_model(MODELS.build(segmentor))
