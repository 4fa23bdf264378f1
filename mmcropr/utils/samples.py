# Copyright (c) mmcropr contributors.
import logging
import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from mmengine.registry import DATASETS, TRANSFORMS

Found = Dict[str, List[str]]
HOSTS = ('mmcv', 'mmengine', 'mmseg', 'mmdet', 'mmpretrain', 'mmcropr')
NUM_FILES, NUM_PIXELS = 500, 16  # looked for, and read, before a run
OF_THINGS = ('bbox_head', 'mask_head', 'auxiliary_head')  # if panoptic


def as_lines(found: Found) -> List[str]:
    """A line per kind of defect: its number and the first places."""
    return [
        f'{len(places)} {kind}: {", ".join(places[:3])}'
        f'{", ..." if places[3:] else ""}' for kind, places in found.items()
    ]


def _build(cfg: Config, kind: type, dataset: dict) -> Optional[BaseDataset]:
    """The data set of a host, without its samples."""
    if not (isinstance(kind, type) and issubclass(kind, BaseDataset)):
        return None
    return DATASETS.build(
        dict(dataset, type=kind, pipeline=[], lazy_init=True,
             _scope_=cfg.get('default_scope')))


def head_classes(part: Any, place: str = 'model') -> Iterator[tuple]:
    """(config key, number of classes) of every head of a model config."""
    if isinstance(part, (list, tuple)):
        part = dict(enumerate(part))
    if not isinstance(part, dict):
        return
    name = [x for x in place.split('.') if not x.isdigit()][-1]
    number = part.get('num_classes')
    if (name.endswith('head') and name != 'rpn_head'
            and not part.get('class_agnostic') and isinstance(number, int)):
        yield f'{place}.num_classes', number
    for key, item in part.items():
        yield from head_classes(item, f'{place}.{key}')


def check_classes(cfg: Config, loader: str, kind: type,
                  dataset: dict) -> None:
    """Compare the number of classes of the model and of its data.

    Raises:
        ValueError: If a head has fewer classes than the data, and not those
            of its things.
    """
    built = _build(cfg, kind, dataset)
    classes = None if built is None else built.metainfo.get('classes')
    if not classes or isinstance(classes, str):
        return
    things = len(built.metainfo.get('thing_classes') or classes)
    for key, number in head_classes(cfg.get('model')):
        if number == things and any(name in key for name in OF_THINGS):
            continue
        message = (f'{key}={number}, but {loader}.dataset ({kind.__name__}, '
                   f'metainfo.classes) has {len(classes)} classes')
        if number < len(classes):
            raise ValueError(message)
        if number > len(classes):
            print_log(message + ': the others are never learned', 'current',
                      logging.WARNING)


def scan(cfg: Config, kind: type, dataset: dict, few: bool = False,
         track: Callable = list) -> Found:
    """Look at the samples of a data set as its host lists them.

    Args:
        cfg: Config of a run.
        kind: Class of the data set.
        dataset: Its config.
        few: Look for some files, and read the pixels of a few of them.
        track: Iterates over a list, with a progress bar for example.

    Returns:
        Kind of defect -> places that have it.
    """
    found: Found = defaultdict(list)
    built = _build(cfg, kind, dataset)
    if built is None:
        return found
    if not dataset.get('ann_file'):  # hosts leave them out of a listing
        for folder in filter(os.path.isdir, built.data_prefix.values()):
            found['broken links'] += _broken_links(folder)
        if not found['broken links']:
            del found['broken links']
    samples = list(built.load_data_list())
    if not samples:
        folder = (built.data_prefix or {}).get('img_path', '')
        suffix = getattr(built, 'img_suffix', None)
        if suffix and os.path.isdir(folder):
            found[f'images that end in {suffix} (img_suffix)'] = []
            found[f'folders with other files ({_suffixes(folder)})'].append(
                folder)
        return found
    classes = built.metainfo.get('classes')
    numbers = [n for _, n in head_classes(cfg.get('model'))]
    num_classes = len(classes) if classes else min(numbers, default=None)
    _check_labels(samples, num_classes, found)
    loaders = _loaders(cfg, dataset)
    looked = _spread(samples, NUM_FILES) if few else samples
    read = {id(s) for s in _spread(samples, NUM_PIXELS)} if few else None
    for sample in track(looked):
        if _check_files(sample, found) and (read is None
                                            or id(sample) in read):
            _check_pixels(sample, loaders, num_classes,
                          getattr(built, 'ignore_index', 255), found)
    return found


def _spread(samples: list, number: int) -> list:
    """At most ``number`` samples, from all over the list."""
    return samples[::max(-(-len(samples) // number), 1)]


def _broken_links(folder: str) -> List[str]:
    broken = []
    for entry in os.scandir(folder):
        if entry.is_dir():
            broken += _broken_links(entry.path)
        elif entry.is_symlink() and not os.path.exists(entry.path):
            broken.append(f'{entry.path} -> {os.readlink(entry.path)}')
    return broken


def _suffixes(folder: Any) -> str:
    counts = Counter(
        Path(name).suffix or 'no suffix' for name in os.listdir(folder))
    return ', '.join(f'{n} {x}' for x, n in counts.most_common(3))


def _check_labels(samples: list, num_classes: Optional[int],
                  found: Found) -> None:
    """Labels of images, one or several each."""
    for sample in samples if num_classes else ():
        for label in np.atleast_1d(sample.get('gt_label', [])):
            if not 0 <= label < num_classes:
                found[f'labels outside of 0 to {num_classes - 1}'].append(
                    f'{label} of {sample.get("img_path")}')


def _check_files(sample: dict, found: Found) -> bool:
    """Whether the files of a sample are there."""
    whole = True
    for key in ('img_path', 'seg_map_path'):
        path = sample.get(key)
        if not isinstance(path, str) or '://' in path or os.path.isfile(path):
            continue
        whole = False
        if os.path.islink(path):
            found['broken links'].append(f'{path} -> {os.readlink(path)}')
            continue
        folder = os.path.dirname(path)
        there = _suffixes(folder) if os.path.isdir(folder) else 'no folder'
        found[f'files missing ({key}; there: {there})'].append(path)
    return whole


def _loaders(cfg: Config, dataset: dict) -> Tuple[list, bool]:
    """The transforms that load, and whether labels are known to stay."""
    loaders, known = [], True
    with TRANSFORMS.switch_scope_and_registry(
            cfg.get('default_scope')) as here:
        for item in dataset.get('pipeline') or []:
            kind = item.get('type')
            kind = here.get(kind) if isinstance(kind, str) else kind
            if kind is None or kind.__module__.split('.')[0] not in HOSTS:
                known = False
            elif kind.__name__ == 'LoadImageFromFile' or (
                    kind.__name__ == 'LoadAnnotations'
                    and kind.__module__.startswith('mmseg')):
                loaders.append(here.build(item))
    return loaders, known


def _check_pixels(sample: dict, loaders: Tuple[list, bool],
                  num_classes: Optional[int], ignore: int,
                  found: Found) -> None:
    """Read image and label map as the pipeline does."""
    result = dict(sample, seg_fields=[])
    for load in loaders[0]:
        is_map = type(load).__name__ == 'LoadAnnotations'
        path = sample.get('seg_map_path' if is_map else 'img_path')
        try:
            result = load(result)
            if result is None:
                raise OSError('no image')
        except Exception as error:  # whatever a decoder raises is reported
            found['unreadable files'].append(
                f'{path} ({type(error).__name__})')
            return
    size = result.get('ori_shape')
    if size and 'height' in sample and size != (sample['height'],
                                                sample['width']):
        found['images of another size than annotated'].append(
            f'{sample["img_path"]} is {size}, annotated '
            f'{(sample["height"], sample["width"])}')
    labels = result.get('gt_seg_map')
    if labels is None:
        return
    path = sample['seg_map_path']
    if labels.ndim != 2 or (size and labels.shape != size):
        found['label maps of another size than their image'].append(
            f'{path} is {labels.shape}, the image {size}')
    values = np.unique(labels)
    wrong = values[(values != ignore)
                   & ((values < 0) | (values >= (num_classes or np.inf)))]
    if len(wrong) and loaders[1]:
        found[f'label maps outside of 0 to {num_classes - 1}'].append(
            f'{path} has {wrong[:5].tolist()}')
