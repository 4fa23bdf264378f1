# Copyright (c) mmcropr contributors.
"""Made-up labels for training steps of any task."""
from typing import Any

import torch
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

from mmcropr.utils.build import blank_samples

OBJECTS = 8  # in every image of a detector


def detector_of(model: nn.Module) -> nn.Module:
    """The detector inside a CroprDetector; any other model as it is."""
    return getattr(model, 'detector', model)


def make_labels(model: nn.Module, image: Tensor) -> list:
    """Random labels for images (B, C, H, W), as the host of a model has them.

    Raises:
        ValueError: If it is no segmentor, detector or classifier.
    """
    inner, (height, width) = detector_of(model), image.shape[-2:]
    if hasattr(inner, 'decode_head'):
        return [_maps(inner, image) for _ in image]
    if hasattr(inner, 'with_bbox'):
        stuff = getattr(
            getattr(inner, 'panoptic_head', None), 'num_stuff_classes', 0)
        samples = [_objects(x, image) for x in blank_samples(image)]
        for sample in samples if stuff else []:
            first = inner.panoptic_head.num_things_classes
            sample.gt_sem_seg = PixelData(
                sem_seg=torch.full((1, height, width), first,
                                   device=image.device))
        return samples
    if hasattr(inner, 'head'):
        from mmpretrain.structures import DataSample
        return [
            DataSample().set_gt_label(
                int(torch.randint(inner.head.num_classes, ()))).to(
                    image.device) for _ in image
        ]
    raise ValueError(f'{type(inner).__name__} is no segmentor, detector or '
                     'classifier with a CroprViT as its backbone')


def _maps(model: nn.Module, image: Tensor) -> Any:
    """A sample of a segmentor, or of an estimator of depth."""
    from mmseg.structures import SegDataSample
    size = tuple(image.shape[-2:])
    sample = SegDataSample(metainfo=dict(img_shape=size))
    if type(model).__name__ == 'DepthEstimator':
        depth = 1 + torch.rand(1, *size, device=image.device)
        sample.gt_depth_map = PixelData(data=depth)
        return sample
    head = model.decode_head
    head = head[-1] if isinstance(head, nn.ModuleList) else head
    classes = torch.randint(
        head.num_classes, (1, *size), device=image.device)
    sample.gt_sem_seg = PixelData(data=classes)
    return sample


def _objects(sample: Any, image: Tensor) -> Any:
    """Add boxes with masks, of the first class."""
    from mmdet.structures.mask import BitmapMasks
    height, width = image.shape[-2:]
    size = torch.tensor([width, height, width, height])
    corners = torch.rand(OBJECTS, 2) * 0.6
    boxes = torch.cat([corners, corners + 0.1 + torch.rand(OBJECTS, 2) * 0.3],
                      dim=1) * size
    masks = torch.zeros(OBJECTS, height, width, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.long().tolist()):
        mask[y0:y1, x0:x1] = 1
    sample.gt_instances = InstanceData(
        bboxes=boxes.to(image), masks=BitmapMasks(
            masks.numpy(), height, width),
        labels=torch.zeros(OBJECTS, dtype=torch.long, device=image.device))
    sample.ignored_instances = InstanceData(
        bboxes=boxes[:0].to(image),
        labels=torch.zeros(0, dtype=torch.long, device=image.device))
    return sample
