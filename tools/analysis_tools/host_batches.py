# Copyright (c) mmcropr contributors.
"""Batches of random images and labels, as the hosts pack them."""
from typing import Any

import torch
from host_models import SIZE, find
from mmengine.structures import PixelData


def of_mmdet(model: dict) -> dict:
    """Two images of different sizes with boxes, masks, label maps."""
    from mmdet.testing import demo_mm_inputs
    numbers = find(model, 'num_classes') + find(model, 'num_things_classes')
    numbers = [n for n in numbers if isinstance(n, int) and n > 0]
    # Masks of RTMDet-Ins are of one size for a batch
    second = SIZE if model['type'] == 'RTMDet' else SIZE - 28
    classes = min(numbers, default=80)  # labels of COCO go to any
    data = demo_mm_inputs(
        2, [(3, SIZE, SIZE), (3, SIZE, second)], num_items=[3, 2],
        num_classes=max(2, classes), with_mask=True, with_semantic=True)
    for sample in data['data_samples']:
        sample.gt_instances.labels.clamp_(max=classes - 1)
    return data


def of_mmseg(model: dict) -> dict:
    """Two images with label and depth maps."""
    from mmseg.structures import SegDataSample
    heads = model['decode_head']
    head = heads[-1] if isinstance(heads, list) else heads
    samples = []
    for _ in range(2):
        size = (SIZE, SIZE)
        sample = SegDataSample(
            metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size))
        classes = max(find(head, 'num_classes'), default=2)
        labels = torch.randint(0, classes, (1, *size))
        sample.gt_sem_seg = PixelData(data=labels)
        sample.set_data(dict(
            gt_edge_map=PixelData(data=labels % 2),
            gt_depth_map=PixelData(data=1 + 5 * torch.rand(1, *size))))
        samples.append(sample)
    return dict(inputs=list(images()), data_samples=samples)


def of_mmpretrain(model: dict) -> dict:
    """Four images with a label each."""
    from mmpretrain.structures import DataSample
    return dict(
        inputs=images(4),
        data_samples=[DataSample().set_gt_label(i % 2) for i in range(4)])


def images(count: int = 2) -> Any:
    return torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8)


BATCHES = dict(mmdet=of_mmdet, mmseg=of_mmseg, mmpretrain=of_mmpretrain)
