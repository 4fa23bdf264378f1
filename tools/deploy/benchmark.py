# Copyright (c) mmcropr contributors.
"""Time exported files on the CPU, in turns, so that a drift of the machine's
clock meets all alike.

A ratio is to the file without pruning of the same format, part and size, if
one is given; export it with ``--cfg-options model.backbone.reducer=None``.
"""
import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import torch

from mmcropr.utils.files import written_whole
from mmcropr.utils.logs import one_line_errors

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


def measure(entries: List[Dict[str, Any]], rounds: int, warmup: int,
            batch: int) -> List[Dict[str, Any]]:
    """Rows of the result: images per second with the middle half, and the
    median over rounds of the ratio to the reference."""
    seconds: Dict[str, List[float]] = {e['name']: [] for e in entries}
    for number in range(warmup + rounds):
        for entry in entries if number % 2 else entries[::-1]:
            start = time.perf_counter()
            entry['run'](entry['image'])
            if number >= warmup:
                seconds[entry['name']].append(time.perf_counter() - start)
    rows = []
    for entry in entries:
        own, reference = seconds[entry['name']], reference_of(entry, entries)
        speeds = sorted(batch / s for s in own)
        ratio = None
        if reference not in ('', entry['name']):
            ratio = statistics.median(
                a / b for a, b in zip(seconds[reference], own))
        rows.append(
            dict(
                file=entry['name'], format=entry['description']['format'],
                images_per_second=statistics.median(speeds),
                spread=[speeds[len(speeds) // 4],
                        speeds[-1 - len(speeds) // 4]],
                ratio_to_no_pruning=ratio))
    return rows


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('files', nargs='+', type=Path, metavar='FILE')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=20)
    parser.add_argument('--warmup', type=int, default=3)
    parser.add_argument('--threads', type=int, help='CPU threads')
    parser.add_argument('--json', type=Path, help='write the result there')
    parser.add_argument(
        '--debug', action='store_true', help='show where an error is from')
    args = parser.parse_args()
    for name in ('batch', 'rounds', 'warmup'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} must be 1 or more')
    return args


def main() -> None:
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    with one_line_errors(args.debug):
        entries = load(list(dict.fromkeys(args.files)), args.batch)
        rows = measure(entries, args.rounds, args.warmup, args.batch)
    sys.path.insert(0, ANALYSIS)
    from timing import hardware
    where = hardware(torch.device('cpu'))
    print(f'{where}, batch {args.batch}')
    print(f'{"images/s":>10} {"middle half":>17} {"x none":>7}  file')
    for row in rows:
        low, high = row['spread']
        ratio = row['ratio_to_no_pruning']
        text = '' if ratio is None else f'{ratio:.3f}'
        print(f'{row["images_per_second"]:>10.3f} {low:>8.3f}-{high:<8.3f} '
              f'{text:>7}  {row["file"]}')
    if args.json:
        result = dict(
            hardware=where, date=time.strftime('%Y-%m-%d'), batch=args.batch,
            rounds=args.rounds,
            versions=entries[0]['description']['versions'], results=rows)
        with written_whole(args.json) as part:
            part.write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
    main()
