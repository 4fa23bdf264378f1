# Copyright (c) mmcropr contributors.
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Dict, List

from mmengine import list_from_file


def classes_of(dataset: dict) -> tuple:
    """Names of the classes of a data set config."""
    given = (dataset.get('metainfo') or {}).get('classes')
    if isinstance(given, str):  # a file with a name per line
        return tuple(list_from_file(given))
    if given:
        return tuple(given)
    from mmdet.datasets import CocoDataset
    return tuple(CocoDataset.METAINFO['classes'])


def read_coco(file: Path) -> tuple:
    """Category names by id, sizes and names of images by id, and boxes.

    Raises:
        ValueError: If the file is no COCO annotation file.
    """
    try:
        content = json.loads(file.read_text())
        known = {c['id']: c['name'] for c in content['categories']}
        sizes = {
            image['id']: (image['width'], image['height'], image['file_name'])
            for image in content['images']
        }
        boxes = [(a['id'], a['image_id'], a['category_id'], a['bbox'],
                  a['area']) for a in content.get('annotations', [])]
        odd = [box for box in boxes if len(box[3]) != 4]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{file} is no COCO annotation file: {type(error).__name__} '
            f'{error}. It needs images, categories and annotations with id, '
            'image_id, category_id, bbox and area.') from error
    if odd:
        raise ValueError(
            f'{file}: {len(odd)} annotations have no box of four numbers, the '
            f'first is id {odd[0][0]} with bbox {odd[0][3]}.')
    return known, sizes, boxes


def broken_annotations(file: Path, classes: tuple) -> Dict[str, List[str]]:
    """Kind of defect -> annotations that have it, as text; empty without any
    annotation.

    Args:
        file: COCO annotation file.
        classes: Names of the classes that are learned.

    Raises:
        ValueError: If the file is no COCO annotation file, its boxes are not
            finite or in another format, or nothing of it is usable.
    """
    known, sizes, boxes = read_coco(file)
    _check_format(file, sizes, boxes)
    found: Dict[str, List[str]] = defaultdict(list)
    for number, image, category, (x, y, w, h), area in boxes:
        if image not in sizes:
            found['of unlisted images'].append(f'id {number}, image {image}')
            continue
        width, height, name = sizes[image]
        inner = (min(x + w, width) - max(x, 0),
                 min(y + h, height) - max(y, 0))
        where = f'id {number} in {name}'
        if known.get(category) not in classes:
            found['with a category outside the classes'].append(
                f'{where} has category {category}')
        elif min(*inner, area) <= 0 or min(w, h) < 1:
            found['without area (at least 1 x 1 px inside the image)'].append(
                f'{where} has box {[x, y, w, h]}')
    lost = sum(map(len, found.values()))
    if boxes and lost == len(boxes):
        counts = ', '.join(f'{len(v)} {kind}' for kind, v in found.items())
        raise ValueError(
            f'{file} has no usable annotation: {counts}. Its annotations have '
            f'category ids {sorted({box[2] for box in boxes})[:5]}, its '
            f'categories are {dict(list(known.items())[:5])}, the classes of '
            f'the config (metainfo) {list(classes[:5])}.')
    return found


def boxes_outside(file: Path) -> List[str]:
    """Boxes that are partly outside of their image; mmdet keeps them as they
    are."""
    _, sizes, boxes = read_coco(file)
    return [
        f'id {number} in {sizes[image][2]} has box {box} of '
        f'{sizes[image][0]} x {sizes[image][1]} px'
        for number, image, _, box, _ in boxes
        if image in sizes and _is_partly_outside(box, sizes[image])
    ]


def _is_partly_outside(box: list, size: tuple) -> bool:
    """Whether a box is over the edge by more than the pixel of rounding."""
    x, y, w, h = box
    over = x < -1 or y < -1 or x + w > size[0] + 1 or y + h > size[1] + 1
    inside = x < size[0] and y < size[1] and x + w > 0 and y + h > 0
    return over and inside


def _check_format(file: Path, sizes: dict, boxes: list) -> None:
    """Raise where boxes are not finite, or x1, y1, x2, y2."""
    wrong = [b for b in boxes if not all(map(math.isfinite, b[3]))]
    if wrong:
        raise ValueError(
            f'{file}: {len(wrong)} annotations have a box that is not finite, '
            f'the first is id {wrong[0][0]} with bbox {wrong[0][3]}.')
    placed = [(b, sizes[b[1]]) for b in boxes if b[1] in sizes]
    outside = [b for b, size in placed
               if b[3][0] + b[3][2] > size[0] + 1
               or b[3][1] + b[3][3] > size[1] + 1]
    corners = all(b[3][0] <= b[3][2] <= size[0] + 1
                  and b[3][1] <= b[3][3] <= size[1] + 1 for b, size in placed)
    if outside and corners:
        raise ValueError(
            f'{file}: the boxes look like x1, y1, x2, y2, COCO has x, y, '
            f'width, height: {len(outside)} of {len(boxes)} end outside of '
            f'their image, the first is id {outside[0][0]} with bbox '
            f'{outside[0][3]}, and as corners all are inside.')
