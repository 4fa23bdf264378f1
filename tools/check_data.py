# Copyright (c) mmcropr contributors.
"""Look at every sample of a config's data before training on it.

Exit code 1 says that something would stop a run or be wrong in it.
"""
import argparse
import sys
from typing import Any, Iterable

from mmengine import track_iter_progress
from mmengine.config import Config, DictAction

from mmcropr.utils.data import (check_annotations, check_data, class_of,
                                datasets_of, downloads)
from mmcropr.utils.logs import import_hosts, one_line_errors
from mmcropr.utils.samples import as_lines, scan


def progress(samples: list) -> Iterable[Any]:
    """The samples, with mmengine's progress bar."""
    yield from track_iter_progress(samples, file=sys.stdout)
    print()


def check(cfg: Config, loader: str) -> int:
    """Print what is wrong with a data loader's data; number of defects.

    Args:
        cfg: Config of a run.
        loader: Name such as ``'train_dataloader'``.
    """
    if cfg.get(loader) is None:
        raise ValueError(f'the config has no {loader}')
    check_data(cfg, loader)
    try:
        check_annotations(cfg, loader, few=False)
    except ValueError as error:
        print(f'{loader}: {error}')
        return 1
    number = 0
    for dataset in datasets_of(cfg[loader]):
        kind = class_of(cfg, dataset)
        if kind is None or downloads(cfg, dataset):
            print(f'{loader}: {dataset.get("type")} cannot be looked at')
            continue
        found = scan(cfg, kind, dataset, track=progress)
        for line in as_lines(found):
            print(f'{loader}: {line}')
        number += len(found)
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--loader', choices=['train', 'val', 'test'], default='train',
        help='whose data (default: %(default)s)')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
        help='replace settings of the config')
    parser.add_argument(
        '--debug', action='store_true', help='show tracebacks of errors')
    args = parser.parse_args()
    try:
        with one_line_errors(args.debug):
            cfg = Config.fromfile(args.config)
            cfg.merge_from_dict(args.cfg_options or {})
            import_hosts(cfg)
            number = check(cfg, f'{args.loader}_dataloader')
    except KeyboardInterrupt:
        raise SystemExit('\nstopped: not every file was looked at') from None
    if number:
        raise SystemExit(1)
    print(f'{args.loader}: nothing wrong found')


if __name__ == '__main__':
    main()
