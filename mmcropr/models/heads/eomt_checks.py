# Copyright (c) mmcropr contributors.
"""Whether labels are what a query-based segmenter learns from."""
from typing import Any, Tuple


def check_sample(head: Any, sample: Any, size: Tuple[int, int]) -> None:
    """Raise a ValueError unless a sample of mmdet has what a head trains on.

    Args:
        head: With ``num_stuff_classes``.
        sample: With ``gt_instances``.
        size: Of the image as the backbone takes it, (H, W) in pixels.
    """
    where = getattr(sample, 'img_path', 'an image')
    if head.num_stuff_classes and 'gt_sem_seg' not in sample:
        raise ValueError(
            f'{type(head).__name__} has num_stuff_classes='
            f'{head.num_stuff_classes}, and {where} comes without '
            'gt_sem_seg: use a panoptic data set and '
            'LoadPanopticAnnotations, or num_stuff_classes=0 for '
            'instance segmentation.')
    masks = sample.gt_instances.masks
    check_size((masks.height, masks.width), size, where)


def check_size(masks: Tuple[int, int], size: Tuple[int, int],
               where: str) -> None:
    """Raise a ValueError unless masks (H, W) have the size of the image."""
    if tuple(masks) != size:
        raise ValueError(
            f'masks of {where} are {masks[0]} x {masks[1]} px, images as '
            f'the backbone takes them {size[0]} x {size[1]}: both must be '
            'padded alike (pad_mask=True, pad_seg=True), to multiples of '
            'the patch size.')
