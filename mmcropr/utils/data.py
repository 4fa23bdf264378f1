# Copyright (c) mmcropr contributors.
from pathlib import Path
from typing import Any, Iterator

from mmengine.config import Config


def _datasets(cfg: Any) -> Iterator[dict]:
    """All data set configs inside a data loader's, wrapped ones too."""
    if isinstance(cfg, (list, tuple)):
        for item in cfg:
            yield from _datasets(item)
    elif isinstance(cfg, dict):
        if 'data_root' in cfg:
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
            root = dataset['data_root'] or ''
            if '://' in root:
                continue
            prefixes = dict(dataset.get('data_prefix') or {}).values()
            folders = [Path(root, x) for x in prefixes if x] or [Path(root)]
            if not Path(root).exists():
                folders = [Path(root)]
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
