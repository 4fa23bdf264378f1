# Copyright (c) mmcropr contributors.
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData

from mmcropr.visualization.legible import LEGIBLE, enlarged, times


def sample():
    masks = torch.zeros(1, 64, 96, dtype=torch.bool)
    masks[0, 10:20, 30:50] = True
    box = torch.tensor([[30., 10., 50., 20.]])
    found = DetDataSample()
    found.pred_instances = InstanceData(bboxes=box, masks=masks)
    found.gt_instances = InstanceData(
        bboxes=HorizontalBoxes(box.clone()), labels=torch.tensor([3]),
        masks=BitmapMasks(masks.numpy().astype(np.uint8), 64, 96))
    found.pred_panoptic_seg = PixelData(
        sem_seg=masks.long(), metainfo=dict(ignore_index=0))
    found.set_field(3, 'count')
    return found


def test_small_images_grow_with_all_that_is_on_them():
    before = sample()
    image, after = enlarged(np.zeros((64, 96, 3), np.uint8), before)
    assert image.shape == (LEGIBLE, 576, 3)
    box = [180., 60., 300., 120.]
    inside = np.zeros((LEGIBLE, 576), bool)
    inside[60:120, 180:300] = True
    assert after.pred_instances.bboxes[0].tolist() == box
    assert after.gt_instances.bboxes.tensor[0].tolist() == box
    for found in (after.pred_instances.masks[0], after.gt_instances.masks.
                  masks[0], after.pred_panoptic_seg.sem_seg[0]):
        assert np.array_equal(np.asarray(found) > 0, inside)
    assert after.gt_instances.labels.tolist() == [3]
    assert after.pred_panoptic_seg.metainfo == dict(ignore_index=0)
    # What was there is as it was
    assert before.gt_instances.bboxes.tensor[0].tolist() == [30, 10, 50, 20]
    assert before.pred_instances.masks.shape == (1, 64, 96)


def test_others_stay_as_they_are():
    image, found = np.zeros((LEGIBLE, 500, 3), np.uint8), sample()
    assert all(a is b for a, b in zip(enlarged(image, found), (image, found)))


def test_long_images_stay_small():
    for height, width, factor in ((96, 96, 4), (64, 600, 2), (32, 1600, 1),
                                  (8, 2000, 1), (385, 400, 1)):
        assert times(np.zeros((height, width, 3))) == factor
