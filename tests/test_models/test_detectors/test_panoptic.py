# Copyright (c) mmcropr contributors.
"""Auxiliary heads that learn from the label maps of panoptic annotations."""
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.testing import demo_mm_inputs
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData

from mmcropr.models import CroprMultiLabelHead
from mmcropr.models.checks import check_model
from tests.test_models.test_detectors.test_stock_detectors import stock_model
from tests.test_models.test_heads.test_multi_label_head import backbone_state

PANOPTIC_FPN = 'panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco'
THINGS, STUFF = 7, 53


def panoptic(queries, **auxiliary):
    init_default_scope('mmdet')
    torch.manual_seed(0)
    reducer = dict(type='mmcropr.Cropr', keep=[40, 16], num_queries=queries)
    return MODELS.build(
        dict(
            type='mmcropr.CroprDetector',
            detector=stock_model(PANOPTIC_FPN, reducer),
            auxiliary_head=auxiliary))


def batch(stuff):
    """Two images of one size, the upper half of the first being stuff."""
    data = demo_mm_inputs(
        2, [(3, 128, 128), (3, 128, 100)], num_items=[3, 2],
        num_classes=THINGS, with_mask=True, with_semantic=True)
    for sample in data['data_samples']:
        sample.gt_sem_seg.sem_seg[:] = 255
    data['data_samples'][0].gt_sem_seg.sem_seg[:, :64] = stuff
    return data


def test_classes_present():
    """Things by their boxes, stuff by the map, void not at all."""
    model = panoptic('image', type='mmcropr.CroprMultiLabelHead')
    head = model.auxiliary_head
    assert (head.num_classes, head.num_things) == (THINGS + STUFF, THINGS)
    check_model(model)
    data = model.data_preprocessor(batch(stuff=20), True)
    data['data_samples'][1].gt_sem_seg.sem_seg[:, :9] = 3  # a thing
    state = model.backbone(data['inputs'])
    found = head.targets(state, data['data_samples'])
    wanted = torch.zeros(2, THINGS + STUFF)
    wanted[0, 20] = 1
    for row, sample in zip(wanted, data['data_samples']):
        row[sample.gt_instances.labels] = 1
    assert torch.equal(found, wanted)


def test_things_alone():
    head = panoptic('image', type='mmcropr.CroprMultiLabelHead',
                    num_classes=THINGS).auxiliary_head
    assert head.num_things == THINGS


def sample_of(**fields):
    sample = DetDataSample(metainfo=dict(img_path='a.jpg'), **fields)
    sample.gt_instances = InstanceData(labels=torch.tensor([0]))
    return sample


def test_bad_label_maps():
    _, state = backbone_state(batch=1)
    head = CroprMultiLabelHead(32, 4, 2, num_things=2)
    with pytest.raises(ValueError, match='classes from 2 on are stuff, and '
                       'a.jpg comes without a label map.*num_classes=2'):
        head.loss(state, [sample_of()])
    labels = torch.tensor([[[0, 3], [255, 6]]])
    with pytest.raises(ValueError, match=r'labels \[6\] of label maps are '
                       r'not in 0 .. 3'):
        head.loss(state, [sample_of(gt_sem_seg=PixelData(sem_seg=labels))])
    with pytest.raises(ValueError, match='num_things=5 must be from 0 to '
                       'num_classes=4'):
        CroprMultiLabelHead(32, 4, 2, num_things=5)


@pytest.mark.parametrize('pad_seg', [True, False])
def test_class_of_every_patch(pad_seg):
    """CroprSegHead in a detector: labels cover the image as it is padded."""
    model = panoptic('patch', type='mmcropr.CroprSegHead')
    assert model.auxiliary_head.num_classes == THINGS + STUFF
    check_model(model)
    model.data_preprocessor.pad_seg = pad_seg
    data = model.data_preprocessor(batch(stuff=20), True)
    state = model.backbone(data['inputs'])
    found = model.auxiliary_head.targets(state, data['data_samples'])
    assert (found[0, :4] == 20).all()
    assert (found[0, 4:] == 255).all() and (found[1] == 255).all()
    if not pad_seg:  # mmdet's own head wants them
        return
    losses = model(**data, mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    assert {'aux.module0.loss_ce', 'aux.module1.loss_ce'} <= set(losses)
    assert all(r.queries.grad.abs().max() > 0 for r in model.backbone.reducers)


def test_smaller_label_maps():
    model = panoptic('patch', type='mmcropr.CroprSegHead')
    data = batch(stuff=20)
    model.data_preprocessor.pad_seg = False
    for sample in data['data_samples']:
        sample.gt_sem_seg = PixelData(
            sem_seg=sample.gt_sem_seg.sem_seg[:, ::8, ::8])
    data = model.data_preprocessor(data, True)
    with pytest.raises(ValueError, match=r'a label map of \(16, 16\) px '
                       r'belongs to an image of \(128, 128\) px.*SegRescale'):
        model.auxiliary_head.loss(
            model.backbone(data['inputs']), data['data_samples'])
