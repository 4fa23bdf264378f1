# Copyright (c) mmcropr contributors.
"""Draws the scenes of a split and writes them, in one process or several."""
import json
import signal
from contextlib import contextmanager
from itertools import cycle
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple

import cv2
import digits_annotations as annotations
import digits_drawing as drawing
import numpy as np
from digits_annotations import CLASSES

STOPS = (signal.SIGINT, signal.SIGTERM)


def _write_png(path: Path, image: np.ndarray) -> None:
    if image.ndim == 3:
        image = image[..., ::-1]
    # Not cv2.imwrite, which returns False when the disk is full.
    path.write_bytes(cv2.imencode('.png', image)[1].tobytes())


def write_json(path: Path, content: Dict[str, Any]) -> None:
    """Write JSON in one line."""
    path.write_text(json.dumps(content, separators=(',', ':')) + '\n')


class Split(NamedTuple):
    """What all scenes of a split have in common, to draw and write them.

    Args:
        root: Folder of the data set.
        name: Of the split.
        number: Of the split, for seeds.
        images: Digits, (S, 8, 8).
        targets: Their classes, (S, ).
        settings: Of the scenes.
        masks: Kind of segmentation, ``polygon`` or ``rle``.
        style: Draws the background.
    """
    root: Path
    name: str
    number: int
    images: np.ndarray
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
            digits=annotations.annotate(scene, index, self.masks))


def _file_name(index: int) -> str:
    return f'{index:06d}.png'


def _draw(split: Split, indices: range, end: Connection,
          others: List[Connection]) -> None:
    """What a process runs: some scenes, each sent once it is written, or what
    went wrong."""
    for other in others:  # of the first process: without it sending shall fail
        other.close()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    cv2.setNumThreads(0)
    try:
        for index in indices:
            end.send(split.write(index))
    except BrokenPipeError:  # the first process was killed
        return
    except Exception as error:
        end.send(error)


def _receive(end: Connection, index: int) -> Dict[str, Any]:
    """Annotations of the next scene of a process; its error is raised."""
    try:
        found = end.recv()
    except EOFError:
        raise OSError(
            f'the process that draws scene {index} was killed; if memory was '
            'short, give fewer --jobs') from None
    if isinstance(found, Exception):
        raise found
    return found


@contextmanager
def _written_scenes(split: Split, count: int,
                    jobs: int) -> Iterator[Iterable[Dict[str, Any]]]:
    """Annotations of the scenes of a split in their order, each as soon as
    it is written."""
    if jobs == 1:
        yield map(split.write, range(count))
        return
    processes: List[Process] = []
    try:
        yield map(_receive, cycle(_start(split, count, min(jobs, count),
                                         processes)), range(count))
    finally:
        for process in processes:
            if process.pid is not None:
                process.terminate()
                process.join()


def _start(split: Split, count: int, jobs: int,
           processes: List[Process]) -> List[Connection]:
    """Start processes, which are put into a list; where each sends what it
    has written, the scenes in turn."""
    ends: List[Connection] = []
    # While a process is forked, Python drops what a handler raises
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        for first in range(jobs):
            end, other = Pipe(duplex=False)
            ends.append(end)
            processes.append(Process(
                target=_draw, daemon=True,
                args=(split, range(first, count, jobs), other, ends)))
            processes[-1].start()
            other.close()  # so that its own is the last, and ends with it
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return ends


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
            for digit in found:
                coco['annotations'].append(
                    dict(id=len(coco['annotations']) + 1, **digit))
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
