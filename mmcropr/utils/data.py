# Copyright (c) mmcropr contributors.
import json
import logging
from collections import defaultdict
from pathlib import Path
from typing import Any, Dict, Iterator, List

from mmengine import list_from_file
from mmengine.config import Config
from mmengine.logging import print_log


def _datasets(cfg: Any) -> Iterator[dict]:
    """All data set configs inside a data loader's, wrapped ones too."""
    if isinstance(cfg, (list, tuple)):
        for item in cfg:
            yield from _datasets(item)
    elif isinstance(cfg, dict):
        if 'data_root' in cfg or 'ann_file' in cfg:
            yield cfg
        for key in ('dataset', 'datasets'):
            yield from _datasets(cfg.get(key))


def check_data(cfg: Config, *loaders: str) -> None:
    """Raise unless the local data of the named data loaders are there.

    Args:
        cfg: Config of a run. Its ``data_command``, if any, is quoted: what
            makes or fetches the data.
        loaders: Names such as ``'train_dataloader'``.

    Raises:
        FileNotFoundError: Naming every folder that is missing or empty.
    """
    missing = []
    for loader in loaders:
        for dataset in _datasets(cfg.get(loader)):
            root = dataset.get('data_root') or ''
            if '://' in root:
                continue
            given = dataset.get('data_prefix') or {}  # mmpretrain: a string
            prefixes = [given] if isinstance(given, str) else given.values()
            folders = [Path(root, x) for x in prefixes if x] or [Path(root)]
            note = Path(root, dataset.get('ann_file') or '')
            if not Path(root).exists():
                folders = [Path(root)]
            elif not note.exists() and str(note) not in missing:
                missing.append(str(note))
            missing += [
                str(folder) for folder in folders
                if not (folder.is_dir() and any(folder.iterdir()))
                and str(folder) not in missing
            ]
    if missing:
        hint = cfg.get('data_command')
        raise FileNotFoundError(
            f'no data at {", ".join(missing)} (missing or empty). '
            + (f'To get them: {hint}. ' if hint else '') +
            'If they are elsewhere, give --cfg-options '
            + ' '.join(f'{name}.dataset.data_root=DIR' for name in loaders))


def check_annotations(cfg: Config, loader: str) -> None:
    """Say what mmdet will leave out of the COCO annotations of a data loader.

    It trains on the rest without a word: boxes without area and categories
    outside the classes go unseen. Here each kind is logged, with its number
    and the first places.

    Args:
        cfg: Config of a run.
        loader: Name such as ``'train_dataloader'``.

    Raises:
        ValueError: If a file is no COCO annotation file, or nothing would be
            left of it.
    """
    for dataset in _datasets(cfg.get(loader)):
        file = Path(
            dataset.get('data_root') or '', dataset.get('ann_file') or '')
        kind = dataset.get('type')
        name = getattr(kind, '__name__', str(kind)).split('.')[-1]
        if name != 'CocoDataset' or not file.is_file():
            continue
        broken = _broken_annotations(file, _classes(dataset))
        for kind, places in broken.items():
            print_log(
                f'{file}: {len(places)} annotations {kind} are left out: '
                f'{"; ".join(places[:3])}{"; ..." if places[3:] else ""}',
                'current', logging.WARNING)


def _classes(dataset: dict) -> tuple:
    """Names of the classes of a data set config."""
    given = (dataset.get('metainfo') or {}).get('classes')
    if isinstance(given, str):  # a file with a name per line
        return tuple(list_from_file(given))
    if given:
        return tuple(given)
    from mmdet.datasets import CocoDataset
    return tuple(CocoDataset.METAINFO['classes'])


def _broken_annotations(file: Path, classes: tuple) -> Dict[str, List[str]]:
    """Kind of defect -> annotations that have it, as text."""
    try:
        content = json.loads(file.read_text())
        if 'annotations' not in content:
            return {}  # unlabelled images
        known = {c['id']: c['name'] for c in content['categories']}
        sizes = {
            image['id']: (image['width'], image['height'], image['file_name'])
            for image in content['images']
        }
        boxes = [(a['id'], a['image_id'], a['category_id'], a['bbox'],
                  a['area']) for a in content['annotations']]
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
    if boxes and sum(map(len, found.values())) == len(boxes):
        counts = ', '.join(f'{len(v)} {kind}' for kind, v in found.items())
        raise ValueError(
            f'{file} has no usable annotation: {counts}. Its annotations have '
            f'category ids {sorted({box[2] for box in boxes})[:5]}, its '
            f'categories are {dict(list(known.items())[:5])}, the classes of '
            f'the config (metainfo) {list(classes[:5])}.')
    return found


def check_start_files(cfg: Config) -> None:
    """Raise unless the local files that ``init_cfg`` and ``teacher_ckpt``
    name are there.

    Args:
        cfg: Config of a run. Its ``start_command``, if any, is quoted: what
            makes them.

    Raises:
        FileNotFoundError: Naming the first that is missing.
    """

    def walk(part: Any, place: str) -> None:
        if isinstance(part, (list, tuple)):
            for number, item in enumerate(part):
                walk(item, f'{place}.{number}')
        if not isinstance(part, dict):
            return
        teacher = part.get('teacher_ckpt')
        if isinstance(teacher, str) and not ('://' in teacher
                                             or Path(teacher).is_file()):
            raise FileNotFoundError(
                f'no checkpoint at teacher_ckpt={teacher}; train the teacher '
                'first, or leave teacher_config and teacher_ckpt out to learn '
                'without one.')
        file = part.get('checkpoint')
        if part.get('type') == 'Pretrained' and isinstance(file, str) and not (
                '://' in file or Path(file).is_file()):
            hint = cfg.get('start_command')
            raise FileNotFoundError(
                f'no checkpoint at {file}, which the model starts from '
                f'({place}). ' + (f'To make it: {hint}. ' if hint else '') +
                f'To start at random: --cfg-options {place}=None')
        for key, item in part.items():
            walk(item, f'{place}.{key}')

    walk(cfg.get('model'), 'model')
