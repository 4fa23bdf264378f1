# Copyright (c) mmcropr contributors.
import base64
import json
from pathlib import Path
from typing import Any, Dict, List, NamedTuple

import cv2
import numpy as np
from matplotlib.colors import to_hex

from mmcropr.utils.files import written_whole

from .fates import Fates
from .figures import module_colours

TEMPLATE = Path(__file__).with_name('explorer.html')
MARK = '__DATA__'


class Item(NamedTuple):
    """A picture in the explorer: its ``name``, the ``image`` (H, W, 3),
    uint8, RGB, and the fates of its patches by method."""
    name: str
    image: np.ndarray
    methods: Dict[str, Fates]


def write_explorer(items: List[Item], path: Path) -> None:
    """Write one self-contained HTML page (no network): a slider over blocks,
    the fate and the scores of the patch that is pointed at, a switch between
    images and methods.

    Args:
        items: At least one.
        path: Of the page.

    Raises:
        ValueError: If there is nothing to show.
    """
    if not items:
        raise ValueError('nothing to show: no image has pruned patches')
    data = json.dumps([_describe(item) for item in items])
    # No text of a name may end the script that holds the data
    page = TEMPLATE.read_text(encoding='utf-8').replace(
        MARK, data.replace('<', '\\u003c'))
    with written_whole(path) as part:
        part.write_text(page, encoding='utf-8')


def _describe(item: Item) -> Dict[str, Any]:
    height, width = item.image.shape[:2]
    png = cv2.imencode('.png', item.image[..., ::-1])[1].tobytes()
    return dict(
        name=item.name,
        width=width,
        height=height,
        image='data:image/png;base64,' + base64.b64encode(png).decode(),
        methods={
            name: _fates(fates)
            for name, fates in item.methods.items()
        })


def _fates(fates: Fates) -> Dict[str, Any]:
    number = len(fates.blocks)
    scores = [[None if np.isnan(x) else float(f'{x:.5g}') for x in row]
              for row in fates.scores]
    return dict(
        grid=fates.grid,
        patch=fates.patch,
        blocks=fates.blocks,
        counts=fates.counts,
        colours=[to_hex(colour) for colour in module_colours(number)],
        slots=fates.slots.tolist(),
        scores=scores)
