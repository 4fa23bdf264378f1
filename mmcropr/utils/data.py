# Copyright (c) mmcropr contributors.
import inspect
import logging
from pathlib import Path
from typing import Any, Iterator, Optional

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DATASETS

from mmcropr.utils.coco import (boxes_outside, broken_annotations, classes_of,
                                read_coco)
from mmcropr.utils.samples import as_lines, check_classes, scan


def datasets_of(cfg: Any) -> Iterator[dict]:
    """All data set configs inside a data loader's, wrapped ones too."""
    if isinstance(cfg, (list, tuple)):
        for item in cfg:
            yield from datasets_of(item)
    elif isinstance(cfg, dict):
        if 'data_root' in cfg or 'ann_file' in cfg:
            yield cfg
        for key in ('dataset', 'datasets'):
            yield from datasets_of(cfg.get(key))


def class_of(cfg: Config, dataset: dict) -> Optional[type]:
    """Class of a data set config; None where the hosts do not know it."""
    kind = dataset.get('type')
    if isinstance(kind, type) or kind is None:
        return kind
    with DATASETS.switch_scope_and_registry(cfg.get('default_scope')) as here:
        return here.get(kind)


def downloads(cfg: Config, dataset: dict) -> bool:
    """Whether a data set fetches its files itself (CIFAR10, MNIST)."""
    kind = class_of(cfg, dataset)
    return kind is not None and dataset.get('download', True) and (
        'download' in inspect.signature(kind).parameters)


def _check_names(dataset: dict, loader: str) -> None:
    """Raise where ``classes`` is a name instead of a tuple of names."""
    given = (dataset.get('metainfo') or {}).get('classes')
    if isinstance(given, str) and not ('://' in given
                                       or Path(given).is_file()):
        raise ValueError(
            f'classes={given!r} in {loader}.dataset.metainfo is neither a '
            'tuple of names nor a file with a name per line. One class is a '
            f'tuple with a comma: classes=({given!r}, )')


def check_data(cfg: Config, *loaders: str) -> None:
    """Raise unless the local data of the named data loaders are there.

    Args:
        cfg: Config of a run. Its ``data_command``, if any, is quoted: what
            makes or fetches the data.
        loaders: Names such as ``'train_dataloader'``.

    Raises:
        FileNotFoundError: Naming every folder that is missing or empty.
        ValueError: If the names of classes are a string, but no file.
    """
    missing = []
    for loader in loaders:
        for dataset in datasets_of(cfg.get(loader)):
            _check_names(dataset, loader)
            root = dataset.get('data_root') or ''
            if '://' in root or downloads(cfg, dataset):
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


def check_annotations(cfg: Config, loader: str, few: bool = True) -> None:
    """Say what the data of a loader would do to a run before it begins.

    mmdet trains on what is left of COCO annotations without a word; each kind
    of what it leaves out is logged, with its number and the first places.
    Classes of model and data are compared, and of the samples a few are read
    (``tools/check_data.py`` reads all).

    Args:
        cfg: Config of a run.
        loader: Name such as ``'train_dataloader'``.
        few: Look at a few samples, too.

    Raises:
        ValueError: If a file is no COCO annotation file, nothing would be
            left of it, labels do not fit the model, or samples are missing,
            unreadable or do not fit together.
    """
    datasets = list(datasets_of(cfg.get(loader)))
    for dataset in datasets:
        # Semi-supervised training has unlabelled images beside others
        _check_coco(dataset, labelled=len(datasets) == 1)
        kind = class_of(cfg, dataset)
        if kind is None or downloads(cfg, dataset):
            continue
        check_classes(cfg, loader, kind, dataset)
        found = scan(cfg, kind, dataset, few=True) if few else {}
        if found:
            raise ValueError(
                f'{loader}: {"; ".join(as_lines(found))}. '
                'tools/check_data.py looks at every file.')


def _check_coco(dataset: dict, labelled: bool) -> None:
    """Log what is odd in the annotation file of a CocoDataset."""
    file = Path(dataset.get('data_root') or '', dataset.get('ann_file') or '')
    kind = dataset.get('type')
    name = getattr(kind, '__name__', str(kind)).split('.')[-1]
    if name != 'CocoDataset' or not file.is_file():
        return
    if not (dataset.get('test_mode') or read_coco(file)[2]):
        text = f'{file} has no annotation: nothing to learn from.'
        if labelled:
            raise ValueError(text)
        print_log(text, 'current', logging.WARNING)
    found = {
        f'{kind} are left out': places for kind, places in broken_annotations(
            file, classes_of(dataset)).items()
    }
    outside = boxes_outside(file)
    if outside:
        found['reach out of their image'] = outside
    for kind, places in found.items():
        print_log(
            f'{file}: {len(places)} annotations {kind}: '
            f'{"; ".join(places[:3])}{"; ..." if places[3:] else ""}',
            'current', logging.WARNING)


def _is_there(path: str) -> bool:
    """Whether a checkpoint is a file, or is none of this machine."""
    return '://' in path or Path(path).expanduser().is_file()


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
        if isinstance(teacher, str) and not _is_there(teacher):
            raise FileNotFoundError(
                f'no checkpoint at teacher_ckpt={teacher}; train the teacher '
                'first, or leave teacher_config and teacher_ckpt out to learn '
                'without one.')
        file = part.get('checkpoint')
        if part.get('type') == 'Pretrained' and isinstance(
                file, str) and not _is_there(file):
            hint = cfg.get('start_command')
            raise FileNotFoundError(
                f'no checkpoint at {file}, which the model starts from '
                f'({place}). ' + (f'To make it: {hint}. ' if hint else '') +
                f'To start at random: --cfg-options {place}=None')
        for key, item in part.items():
            walk(item, f'{place}.{key}')

    walk(cfg.get('model'), 'model')
