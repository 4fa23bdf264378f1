# Copyright (c) mmcropr contributors.
"""Panoptic annotations of the digits scenes, as mmdet's data set reads
them."""
import mmcv
import numpy as np
import pytest
from mmdet.datasets import CocoPanopticDataset
from mmengine.registry import init_default_scope

from tests.utils import load_tool

annotations = load_tool('dataset_converters/digits_scenes.py').annotations


@pytest.fixture
def dataset(digits):
    init_default_scope('mmdet')
    names = annotations.CLASSES[1:], annotations.STUFF
    return CocoPanopticDataset(
        data_root=str(digits),
        metainfo=dict(
            classes=names[0] + names[1], thing_classes=names[0],
            stuff_classes=names[1]),
        ann_file='annotations/panoptic_train.json',
        data_prefix=dict(img='images/train', seg='panoptic/train'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='mmcropr.LoadPanopticAnnotations'),
            dict(type='PackDetInputs')])


def test_maps_are_the_labels_with_the_background_in_two(dataset, digits):
    assert len(dataset) == 16
    kinds = set()
    for item in dataset:
        sample = item['data_samples']
        labels = mmcv.imread(
            sample.img_path.replace('images', 'labels'), 'unchanged')
        found = sample.gt_sem_seg.sem_seg[0].numpy()
        assert np.array_equal(np.where(found < 10, found + 1, 0), labels)
        kinds |= set(np.unique(found).tolist())
        things = sample.gt_instances
        assert len(things) == len(things.masks) >= 1
        for label, mask in zip(things.labels, things.masks.masks):
            assert (found[mask > 0] == label.item()).all()
    assert {10, 11} < kinds and max(kinds) == 11
