# Copyright (c) mmcropr contributors.
"""Time exported files on the CPU, in turns, so that a drift of the machine's
clock meets all alike.

A ratio is to the file without pruning of the same format, part and size, if
one is given; export it with ``--cfg-options model.backbone.reducer=None``. Or
``--config``: a config with random weights, no pruning and ideal slicing, in
PyTorch and in every format, all in turns.
"""
import argparse
import json
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import torch

from mmcropr.utils.files import written_whole
from mmcropr.utils.logs import one_line_errors

FORMATS = ('onnx', 'torch-export', 'aot', 'openvino')
ANALYSIS = str(Path(__file__).parents[1] / 'analysis_tools')


def load(files: List[Path], batch: int) -> List[Dict[str, Any]]:
    """What runs each file, and an input for it."""
    from mmcropr.deploy.formats import open_file
    entries = []
    for file in files:
        description, run = open_file(file)
        shape = description['input']['shape']
        if shape[0] not in ('batch', batch):
            raise ValueError(f'{file} takes batches of {shape[0]}, not of '
                             f'{batch}: export it with --dynamic-batch.')
        image = np.random.RandomState(0).randn(batch, *shape[1:])
        entries.append(
            dict(
                name=str(file), run=run, description=description,
                image=image.astype(description['input']['dtype'])))
    return entries


def reference_of(entry: Dict[str, Any],
                 entries: List[Dict[str, Any]]) -> str:
    """Name of the file without pruning that an entry is compared with, ''
    for none."""
    def kind(item: Dict[str, Any]) -> tuple:
        text = item['description']
        return text['format'], text['part'], tuple(text['input']['shape'][1:])

    for other in entries:
        if kind(other) == kind(entry) and (
                not other['description']['schedule']['lengths']):
            return other['name']
    return ''


def take_turns(runs: Dict[str, Callable[[], Any]], rounds: int,
               warmup: int) -> Dict[str, List[float]]:
    """Seconds of every round, by name, in alternating order."""
    seconds: Dict[str, List[float]] = {name: [] for name in runs}
    for number in range(warmup + rounds):
        for name in list(runs)[::1 if number % 2 else -1]:
            start = time.perf_counter()
            runs[name]()
            if number >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(reference: List[float], own: List[float]) -> float:
    """Speed relative to a reference: the median over rounds."""
    return statistics.median(a / b for a, b in zip(reference, own))


def speeds_of(own: List[float], batch: int) -> Dict[str, Any]:
    """Images per second: the median, and the middle half."""
    speeds = sorted(batch / s for s in own)
    quarter = len(speeds) // 4
    return dict(images_per_second=statistics.median(speeds),
                spread=[speeds[quarter], speeds[-1 - quarter]])


def measure(entries: List[Dict[str, Any]], rounds: int, warmup: int,
            batch: int) -> List[Dict[str, Any]]:
    """Rows of the result: images per second with the middle half, and the
    median over rounds of the ratio to the reference."""
    seconds = take_turns({
        entry['name']: partial(entry['run'], entry['image'])
        for entry in entries
    }, rounds, warmup)
    rows = []
    for entry in entries:
        own, reference = seconds[entry['name']], reference_of(entry, entries)
        known = reference not in ('', entry['name'])
        rows.append(
            dict(
                file=entry['name'], format=entry['description']['format'],
                **speeds_of(own, batch),
                ratio_to_no_pruning=ratio(seconds[reference], own)
                if known else None))
    return rows


def measure_config(args: argparse.Namespace) -> List[Dict[str, Any]]:
    """The rows of a config in every format; ``ratio_kept`` is the ratio to no
    pruning over that of PyTorch."""
    sys.path.insert(0, str(Path(__file__).parent))
    from candidates import make_candidates
    with tempfile.TemporaryDirectory() as folder:
        found = make_candidates(args.config, args.formats, tuple(args.shape),
                                args.batch, args.part, Path(folder))
        image = np.random.RandomState(0).rand(args.batch, 3, *args.shape)
        image = image.astype(np.float32)
        seconds = take_turns({
            f'{c.kind} {c.entry}': partial(c.run, image)
            for c in found
        }, args.rounds, args.warmup)
    rows, eager = [], {}
    for one in found:
        own = seconds[f'{one.kind} {one.entry}']
        none, slicing = (
            None if name is None else ratio(seconds[f'{one.kind} {name}'],
                                            own)
            for name in (one.none, one.slicing))
        if one.kind == 'pytorch':
            eager[one.entry] = none
        kept = None if none is None else none / eager[one.entry]
        rows.append(
            dict(
                file=one.entry, format=one.kind, **speeds_of(own, args.batch),
                ratio_to_no_pruning=none, ratio_to_ideal_slicing=slicing,
                ratio_kept=kept))
    return sorted(rows, key=lambda row: ['pytorch', *args.formats].index(
        row['format']))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=' '.join(__doc__.split()))
    parser.add_argument('files', nargs='*', type=Path, metavar='FILE')
    parser.add_argument(
        '--config', help='time a config, written to every format, instead of '
        'files')
    parser.add_argument(
        '--formats', nargs='+', choices=FORMATS,
        help='with --config (default: onnx)')
    parser.add_argument(
        '--shape', nargs=2, type=int, metavar=('H', 'W'),
        help='with --config: image size in pixels')
    parser.add_argument(
        '--part', choices=('whole', 'encoder'),
        help='with --config (default: encoder)')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=20)
    parser.add_argument('--warmup', type=int, default=3)
    parser.add_argument('--threads', type=int, help='CPU threads')
    parser.add_argument('--json', type=Path, help='write the result there')
    parser.add_argument(
        '--debug', action='store_true', help='show where an error is from')
    args = parser.parse_args()
    if bool(args.files) == bool(args.config):
        parser.error('give files, or a --config'
                     f'{", not both" if args.files else ""}')
    if bool(args.config) != bool(args.shape):
        parser.error('--shape H W goes with --config')
    for name in ('formats', 'part'):
        if args.files and getattr(args, name):
            parser.error(f'--{name} goes with --config: of a file it is fixed '
                         'at export')
    args.formats = args.formats or FORMATS[:1]
    args.part = args.part or 'encoder'
    if args.shape and min(args.shape) < 1:
        parser.error(f'--shape must be positive, got {args.shape}')
    for name in ('batch', 'rounds', 'warmup'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} must be 1 or more')
    return args


def print_rows(rows: List[Dict[str, Any]]) -> None:
    keys = ('ratio_to_no_pruning', 'ratio_to_ideal_slicing', 'ratio_kept')
    print(f'{"images/s":>10} {"middle half":>17} {"x none":>7} '
          f'{"x slicing":>9} {"kept":>6}  what')
    for row in rows:
        low, high = row['spread']
        cells = ['' if row.get(key) is None else f'{row[key]:.3f}'
                 for key in keys]
        print(f'{row["images_per_second"]:>10.3f} {low:>8.3f}-{high:<8.3f} '
              f'{cells[0]:>7} {cells[1]:>9} {cells[2]:>6}  {row["format"]} '
              f'{row["file"]}')


def main() -> None:
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    with one_line_errors(args.debug):
        if args.config:
            rows = measure_config(args)
        else:
            entries = load(list(dict.fromkeys(args.files)), args.batch)
            rows = measure(entries, args.rounds, args.warmup, args.batch)
    sys.path.insert(0, ANALYSIS)
    from timing import hardware

    from mmcropr.deploy.description import versions
    where = hardware(torch.device('cpu'))
    print(f'{where}, batch {args.batch}')
    print_rows(rows)
    if args.json:
        result = dict(
            hardware=where, date=time.strftime('%Y-%m-%d'), batch=args.batch,
            rounds=args.rounds, shape=args.shape, versions=versions(),
            results=rows)
        with written_whole(args.json) as part:
            part.write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
    main()
