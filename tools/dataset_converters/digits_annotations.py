# Copyright (c) mmcropr contributors.
"""Classes and annotations of the digits scenes."""
import importlib
from types import ModuleType
from typing import Any, Dict, List, Tuple

import cv2
import numpy as np
from digits_settings import Scene

CLASSES = ('background', 'zero', 'one', 'two', 'three', 'four', 'five', 'six',
           'seven', 'eight', 'nine')
CATEGORIES = [
    dict(id=number, name=CLASSES[number], supercategory='digit')
    for number in range(1, len(CLASSES))
]
BACKGROUND = 1.25  # its distance to that of the smallest digit
# Panoptic: the background in two, behind the categories of the digits
STUFF = ('ground', 'clutter')
PANOPTIC_CATEGORIES = [dict(c, isthing=1) for c in CATEGORIES] + [
    dict(id=len(CLASSES) + i, name=name, supercategory='background', isthing=0)
    for i, name in enumerate(STUFF)
]
PALETTE = ((0, 0, 0), (230, 60, 50), (60, 170, 70), (250, 210, 40),
           (50, 100, 220), (240, 130, 40), (140, 50, 170), (70, 200, 220),
           (230, 70, 200), (160, 210, 60), (250, 170, 180))


def need(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'{package} is needed, but cannot be imported '
                          f'({error}); run: pip install {package}') from error


def mask_to_polygons(mask: np.ndarray) -> List[List[float]]:
    """Outline a mask along its pixel edges, so that decoding is exact.

    COCO polygons have no holes: a hole is joined to the outline around it by
    a cut of no width.

    Returns:
        For the mask, (H, W) bool, one closed outline [x0, y0, x1, y1, ...]
        per connected part, px.
    """
    # At twice the size, a pixel's near and far edge are different points.
    twice = mask.astype(np.uint8).repeat(2, 0).repeat(2, 1)
    contours, tree = cv2.findContours(twice, cv2.RETR_CCOMP,
                                      cv2.CHAIN_APPROX_SIMPLE)
    edges = [(contour[:, 0] + 1) // 2 for contour in contours]
    polygons = []
    for number, outline in enumerate(edges):
        if tree[0, number, 3] >= 0:
            continue
        holes = [edges[k] for k in np.flatnonzero(tree[0, :, 3] == number)]
        for hole in holes:
            gaps = np.abs(outline[:, None] - hole[None]).sum(-1)
            at, start = np.unravel_index(gaps.argmin(), gaps.shape)
            ring = np.roll(hole, -start, axis=0)
            outline = np.concatenate(
                [outline[:at + 1], ring, ring[:1], outline[at:]])
        # Floats, as loaders scale the arrays they make of these in place.
        polygons.append(outline.astype(float).ravel().tolist())
    return polygons


def depth_map(scene: Scene, sizes: Tuple[float, float]) -> np.ndarray:
    """Depth of every pixel as a pinhole camera sees digits of one real size.

    Args:
        scene: Whose larger digits cover the smaller ones.
        sizes: Least and greatest side of a digit, px.

    Returns:
        Millimetres, (H, W) uint16: a digit of the greatest size is at 1 m,
        one of half of it at 2 m, and the background at 1.25 times the
        distance of the smallest.
    """
    low, high = sizes
    distances = [BACKGROUND * high / low, *(high / s for s in scene.sizes)]
    return (1000 * np.array(distances)).round().astype(np.uint16)[scene.owner]


def _mask_to_rle(mask: np.ndarray) -> Dict[str, Any]:
    coder = need('pycocotools.mask', 'pycocotools')
    rle = coder.encode(np.asfortranarray(mask, dtype=np.uint8))
    return dict(
        size=[int(side) for side in rle['size']],
        counts=rle['counts'].decode('ascii'))


def annotate(scene: Scene, image_id: int, masks: str) -> List[Dict[str, Any]]:
    """COCO annotations of the visible parts of a scene's digits, without
    their ``id``."""
    encode = _mask_to_rle if masks == 'rle' else mask_to_polygons
    annotations = []
    for number, label in enumerate(scene.classes, 1):
        mask = scene.owner == number
        annotations.append(
            dict(
                image_id=image_id,
                category_id=label + 1,
                bbox=list(cv2.boundingRect(mask.astype(np.uint8))),
                area=int(mask.sum()),
                iscrowd=0,
                segmentation=encode(mask)))
    return annotations


def panoptic_map(scene: Scene) -> Tuple[np.ndarray, List[Dict[str, Any]]]:
    """Panoptic annotation of a scene: one segment per digit, ground, clutter.

    Returns:
        The map, (H, W, 3) uint8 RGB, of numbers R + 256 G + 256 ** 2 B, and
        ``segments_info`` as COCO has it.
    """
    owner = scene.owner.copy()
    first = len(scene.classes) + 1
    ground = owner == 0
    owner[ground] = first + scene.drawn[ground]
    labels = [label + 1 for label in scene.classes]
    labels += [c['id'] for c in PANOPTIC_CATEGORIES if not c['isthing']]
    segments = []
    for number, category in enumerate(labels, 1):
        mask = owner == number
        if mask.any():
            segments.append(
                dict(
                    id=number,
                    category_id=category,
                    bbox=list(cv2.boundingRect(mask.astype(np.uint8))),
                    area=int(mask.sum()),
                    iscrowd=0))
    image = np.zeros((*owner.shape, 3), np.uint8)
    image[..., 0] = owner  # fewer than 256 segments
    return image, segments
