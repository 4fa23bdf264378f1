# Copyright (c) mmcropr contributors.
"""Draws the scenes of a split and writes them, in one process or several."""
import json
import signal
from contextlib import contextmanager
from multiprocessing import Pool
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, NamedTuple

import cv2
import digits_annotations as annotations
import digits_drawing as drawing
import numpy as np
from digits_annotations import CLASSES


def _write_png(path: Path, image: np.ndarray) -> None:
    if image.ndim == 3:
        image = image[..., ::-1]
    # Not cv2.imwrite, which returns False when the disk is full.
    path.write_bytes(cv2.imencode('.png', image)[1].tobytes())


def write_json(path: Path, content: Dict[str, Any]) -> None:
    path.write_text(json.dumps(content, separators=(',', ':')) + '\n')


class Split(NamedTuple):
    """What all scenes of a split have in common, to draw and write them."""
    root: Path
    name: str
    number: int  # of the split, for seeds
    images: np.ndarray  # digits, (S, 8, 8)
    targets: np.ndarray
    settings: drawing.SceneSettings
    masks: str
    style: Any

    def write(self, index: int) -> Dict[str, Any]:
        """Draw a scene and write its maps; its annotations."""
        scene = drawing.draw_scene(self.images, self.targets, self.number,
                                   index, self.settings, self.style)
        values = np.array([0] + [c + 1 for c in scene.classes], np.uint8)
        segments, infos = annotations.panoptic_map(scene)
        maps = dict(images=scene.image, labels=values[scene.owner],
                    panoptic=segments)
        if self.settings.depth:
            maps['depth'] = annotations.depth_map(scene,
                                                  self.settings.digit_size)
        for kind, image in maps.items():
            _write_png(self.root / kind / self.name / _file_name(index), image)
        return dict(
            size=scene.owner.shape,
            segments=infos,
            digits=annotations.annotate(scene, index, 1, self.masks))


def _file_name(index: int) -> str:
    return f'{index:06d}.png'


def _begin_process(split: Split) -> None:
    """Keep in a process what its scenes have in common."""
    global _split
    _split = split
    cv2.setNumThreads(0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends it


def _write_scene(index: int) -> Dict[str, Any]:
    return _split.write(index)


@contextmanager
def _written_scenes(split: Split, count: int,
                    jobs: int) -> Iterator[Iterable[Dict[str, Any]]]:
    """Annotations of the scenes of a split in their order, each as soon as
    it is written."""
    if jobs == 1:
        yield map(split.write, range(count))
        return
    with Pool(min(jobs, count), _begin_process, (split, )) as pool:
        yield pool.imap(_write_scene, range(count), chunksize=4)


def write_split(split: Split, count: int, jobs: int) -> None:
    """Draw a split and write all of it."""
    maps = ['images', 'labels', 'panoptic'] + ['depth'] * split.settings.depth
    root, name = split.root, split.name
    for sub in [f'{kind}/{name}' for kind in maps] + ['annotations', 'meta']:
        (root / sub).mkdir(parents=True, exist_ok=True)
    coco: Dict[str, Any] = dict(
        info=dict(description=f'digits scenes, {name}'),
        images=[],
        categories=annotations.CATEGORIES,
        annotations=[])
    single, multi, panoptic = [], [], []
    with _written_scenes(split, count, jobs) as scenes:
        for index, scene in enumerate(scenes):
            file_name, found = _file_name(index), scene['digits']
            panoptic.append(
                dict(image_id=index, file_name=file_name,
                     segments_info=scene['segments']))
            for digit in found:  # numbered within the scene until now
                digit['id'] += len(coco['annotations'])
            coco['annotations'] += found
            height, width = scene['size']
            coco['images'].append(
                dict(id=index, file_name=file_name, height=height,
                     width=width))
            main_digit = max(found, key=lambda digit: digit['area'])
            single.append(f'{file_name} {main_digit["category_id"] - 1}\n')
            multi.append(dict(
                img_path=file_name,
                gt_label=sorted({d['category_id'] - 1 for d in found})))
    write_json(root / f'annotations/instances_{name}.json', coco)
    coco.update(categories=annotations.PANOPTIC_CATEGORIES,
                annotations=panoptic)
    write_json(root / f'annotations/panoptic_{name}.json', coco)
    write_json(root / f'meta/{name}_multilabel.json',
               dict(metainfo=dict(classes=CLASSES[1:]), data_list=multi))
    (root / f'meta/{name}.txt').write_text(''.join(single))
