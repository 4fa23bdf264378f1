# Copyright (c) mmcropr contributors.
"""Panoptic maps in COCO's format."""
import numpy as np

VOID = 0


def rgb_to_id(image: np.ndarray) -> np.ndarray:
    """Segment of every pixel, (H, W) int64, from an RGB image of a panoptic
    map, (H, W, 3) uint8: R + 256 G + 256 ** 2 B."""
    return image.astype(np.int64) @ np.array([1, 256, 256**2])


def id_to_rgb(segments: np.ndarray) -> np.ndarray:
    """The reverse of :func:`rgb_to_id`."""
    return np.stack([segments >> shift & 255 for shift in (0, 8, 16)],
                    axis=-1).astype(np.uint8)
