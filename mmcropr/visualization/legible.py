# Copyright (c) mmcropr contributors.
"""Small images, as large as words on them need."""
import copy
from typing import Any, Tuple

import mmcv
import numpy as np
import torch
from mmengine.structures import InstanceData, PixelData

LEGIBLE = 384  # pixels of the shorter side
MOST = 4 * LEGIBLE  # of the longer one


def times(image: np.ndarray) -> int:
    """How many times an image (H, W, 3) is to be enlarged; 1 if not, or if it
    would become too long."""
    short, long = sorted(image.shape[:2])
    return max(1, min(-(-LEGIBLE // short), MOST // long))


def enlarged(image: np.ndarray, result: Any) -> Tuple[np.ndarray, Any]:
    """An image (H, W, 3) and its data sample of mmdet, a whole number of
    times as large if it is small.

    Args:
        image: Of the size that boxes and masks have.
        result: Is left as it is.
    """
    from mmdet.structures.bbox import scale_boxes

    factor = times(image)
    if factor == 1:
        return image, result
    height, width = (factor * side for side in image.shape[:2])
    result = copy.deepcopy(result)  # boxes are scaled in place
    for name, part in list(result.items()):
        if isinstance(part, InstanceData) and 'bboxes' in part:
            part.bboxes = scale_boxes(part.bboxes, (factor, factor))
        if isinstance(part, InstanceData) and 'masks' in part:
            part.masks = _repeated(part.masks, factor) if isinstance(
                part.masks, torch.Tensor) else part.masks.resize(
                    (height, width))
        if isinstance(part, PixelData):
            maps = {key: _repeated(value, factor)
                    for key, value in part.items()}
            setattr(result, name, PixelData(metainfo=part.metainfo, **maps))
    return mmcv.imresize(image, (width, height)), result


def _repeated(maps: torch.Tensor, factor: int) -> torch.Tensor:
    """(..., h, w) -> (..., factor * h, factor * w)."""
    return maps.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
