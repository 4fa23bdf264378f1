# Copyright (c) mmcropr contributors.
"""Measure the speed of configs, as ratios within one run: of inference, with
``--train`` of whole training steps, or with ``--table`` of the published
tables.

Every config runs beside two references of the same architecture and weights:
no pruning, and ideal slicing, which keeps the first K tokens without scoring
them and so is the limit that a pruner with these lengths can reach. All take
turns, so a drift of the machine's clock meets all alike.
"""
import argparse
import json
import sys
from pathlib import Path
from typing import Any, Dict, List

import torch

from mmcropr.utils.files import written_whole
from mmcropr.utils.logs import one_line_errors
from mmcropr.utils.rates import as_share

sys.path.insert(0, str(Path(__file__).parent))
from entries import (Entry, backbone_of, load_configs,  # noqa: E402
                     make_entries, make_training_entries)
from plots import plot_lengths, plot_sizes  # noqa: E402
from sweeps import measure_lengths, measure_sizes, with_decay  # noqa: E402
from tables import TABLES, choose, compare, load, markdown  # noqa: E402
from timing import (DTYPES, Clock, building_on, check_compiler,  # noqa: E402
                    compile_all, describe, make_run, noise, summarise)
from training import parse_share  # noqa: E402

CURVES = ('size', 'length')


def print_rows(rows: List[Dict[str, Any]]) -> None:
    print(f'{"images/s":>10} {"middle half":>17} {"x none":>7} '
          f'{"x slicing":>9} {"MiB":>7}  what')
    for row in rows:
        low, high = row['spread']
        cells = [
            '' if row[key] is None else f'{row[key]:.3f}'
            for key in ('ratio_to_no_pruning', 'ratio_to_ideal_slicing')
        ]
        memory = row['peak_memory_mib']
        memory = '' if memory is None else f'{memory:.0f}'
        print(f'{row["images_per_second"]:>10.3f} {low:>8.3f}-{high:<8.3f} '
              f'{cells[0]:>7} {cells[1]:>9} {memory:>7}  {row["name"]}')


def dtype_is_half(name: str) -> bool:
    return DTYPES[name][0] != torch.float32


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=' '.join(__doc__.split()))
    parser.add_argument('configs', nargs='*', metavar='CONFIG')
    parser.add_argument(
        '--table', choices=[*TABLES, *CURVES],
        help='measure a published table with random weights, or the speed '
        'against image size or sequence length')
    parser.add_argument(
        '--rows', nargs='+', metavar='NAME',
        help='of a table: only these and its first row, which the others are '
        'compared with')
    parser.add_argument(
        '--small', action='store_true',
        help='a table on ViTs of 192 channels, for a machine without a GPU: '
        'shows that all rows run, not what they are worth')
    parser.add_argument(
        '--out', type=Path, metavar='DIR',
        help='of a table: write DIR/TABLE.json, .md, and plots of curves')
    parser.add_argument(
        '--shape', nargs=2, type=int, metavar=('H', 'W'),
        help='image size in pixels (of a table: its own)')
    parser.add_argument('--batch', type=int, help='default: 1, of a table its '
                        'own, or 2 if --small')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cuda',
                        help='default: cuda')
    parser.add_argument('--dtype', choices=DTYPES, default='float32')
    parser.add_argument(
        '--whole', action='store_true',
        help='time the whole model, a detector with its post-processing, '
        'not just the encoder')
    parser.add_argument(
        '--modes', nargs='+', choices=['eager', 'compiled', 'graph'],
        help='without torch.compile, with it, or as one CUDA graph, which '
        'leaves out the time of Python and of launches; default: eager, of a '
        'table eager and compiled')
    parser.add_argument(
        '--compile', action='store_true', help='short for --modes compiled')
    parser.add_argument(
        '--channels-last', action='store_true',
        help='images and weights of convolutions with their channels last')
    parser.add_argument(
        '--train', action='store_true',
        help='time training steps: forward, backward and AdamW, on random '
        'images and labels')
    parser.add_argument(
        '--share', type=parse_share, default=(1, 1), metavar='0..1',
        help='of the full pruning rate, in these steps (default: 1)')
    parser.add_argument(
        '--tpr', type=as_share, nargs='+', metavar='0..1',
        help='time every config at these shares of pruned patches in place of '
        'its own, as tools/test.py --tpr evaluates them')
    parser.add_argument('--rounds', type=int, default=20)
    parser.add_argument('--warmup', type=int, default=3)
    parser.add_argument('--threads', type=int, help='CPU threads of torch')
    parser.add_argument('--json', type=Path, help='write the result there')
    parser.add_argument(
        '--debug', action='store_true', help='show where an error is from')
    return parser


def parse_args() -> argparse.Namespace:
    parser = make_parser()
    args = parser.parse_args()
    if bool(args.configs) == (args.table is not None):
        parser.error('give configs, or a --table'
                     f'{", not both" if args.configs else ""}')
    if args.configs and args.shape is None:
        parser.error('--shape H W is needed')
    only = ('small', 'out', 'rows') if args.configs else (
        'train', 'json', 'whole', 'compile', 'tpr')
    for name in only:
        if getattr(args, name):
            parser.error(f'--{name} goes {"with" if args.configs else "not"} '
                         f'{"" if args.configs else "with "}--table')
    if args.table in CURVES:
        ignored = ['shape', 'modes', 'channels_last', 'rows']
        ignored += ['dtype'] if args.table == 'size' else []
        for name in ignored:
            if getattr(args, name) != parser.get_default(name):
                parser.error(f'--{name.replace("_", "-")} goes not with '
                             f'--table {args.table}')
    if args.share != (1, 1) and not args.train:
        parser.error('--share goes with --train')
    if args.tpr and args.train:
        parser.error('--tpr goes not with --train; --share does')
    if args.shape is not None and min(args.shape) < 1:
        parser.error(f'--shape must be positive, got {args.shape}')
    if args.modes is None:
        args.modes = ['compiled'] if args.compile else (
            ['eager', 'compiled'] if args.table in TABLES else ['eager'])
    if args.batch is None:
        args.batch = 2 if args.small else (
            TABLES[args.table].batch if args.table in TABLES else
            32 if args.table else 1)
    for name in ('batch', 'rounds', 'warmup'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} must be 1 or more')
    if 'graph' in args.modes and (args.train or args.device != 'cuda'):
        parser.error('--modes graph is of inference, and needs --device cuda')
    if args.train and dtype_is_half(args.dtype):
        parser.error(f'--train in {args.dtype} would not learn: give '
                     f'--dtype amp-{args.dtype}')
    if args.device == 'cuda' and not torch.cuda.is_available():
        small = args.table and not args.small
        parser.error('no CUDA device here; give --device cpu'
                     f'{" --small" if small else ""}')
    return args


def measure(entries: List[Entry], args: argparse.Namespace,
            mode: str = 'eager') -> List[Dict[str, Any]]:
    """Rows of all entries at the image size and batch of the command line."""
    device, (dtype, amp) = torch.device(args.device), DTYPES[args.dtype]
    layout = torch.channels_last if args.channels_last else (
        torch.contiguous_format)
    clock, runs = Clock(device), {}
    if mode == 'compiled':
        check_compiler(device)
        compile_all(len(entries))
    for entry in entries:
        entry.module.to(device, dtype, memory_format=layout)

    def attempt(batch: int) -> List[Dict[str, Any]]:
        for entry in entries:
            channels = backbone_of(entry.module).in_channels
            image = torch.rand(batch, channels, *args.shape).to(
                device, dtype, memory_format=layout)
            runs[entry.name] = make_run(entry, image, amp, mode, args.train)
        seconds = clock.take_turns(runs, args.warmup, args.rounds)
        return summarise(entries, seconds, batch)

    rows, batch = with_decay(attempt, args.batch)
    for row in rows:
        row['batch'] = batch
        row['peak_memory_mib'] = clock.peak_memory(runs[row['name']])
    return rows


def run_configs(args: argparse.Namespace) -> None:
    """Measure configs of the command line."""
    with building_on(torch.device(args.device)):
        if args.train:
            entries = make_training_entries(args.configs, args.share)
        else:
            entries = make_entries(load_configs(args.configs, args.tpr),
                                   args.whole)
    result: List[Dict[str, Any]] = []
    what = 'training step' if args.train else (
        'whole model' if args.whole else 'encoder')
    place = describe(torch.device(args.device), args)
    for mode in args.modes:
        rows = measure(entries, args, mode)
        print(f'{place["hardware"]}, {args.dtype}, batch {rows[0]["batch"]}, '
              f'{args.shape[0]} x {args.shape[1]} px, {what}, {mode}')
        print_rows(rows)
        warning = noise(rows)
        if warning:
            print(warning)
        result += [dict(row, mode=mode) for row in rows]
    if args.json:
        with written_whole(args.json) as part:
            part.write_text(
                json.dumps({**place, 'results': result}, indent=2) + '\n')


def run_table(args: argparse.Namespace) -> None:
    """Measure a published table."""
    table = choose(TABLES[args.table], args.rows)
    device = torch.device(args.device)
    args.shape = args.shape or list(
        table.small_shape if args.small else table.shape)
    args.whole = table.whole
    text, results = f'# {table.title}\n', []
    for mode in args.modes:
        with building_on(device):
            entries = make_entries(
                {row.name: load(row, args.small) for row in table.rows},
                table.whole)
        rows = measure(entries, args, mode)
        compared = compare(table, rows)
        warning = noise(rows)
        text += (f'\n{mode}, {args.dtype}, batch {rows[0]["batch"]}, '
                 f'{args.shape[0]} x {args.shape[1]} px\n\n'
                 f'{markdown(compared)}')
        text += f'\n{warning}\n' if warning else ''
        results.append(dict(mode=mode, rows=compared, noise=warning))
    place = describe(device, args)
    if args.small:
        text += ('\nViTs of 192 channels: what a module costs counts more '
                 'here than in the published models.\n')
    text += f'\n{place["hardware"]}, torch {place["versions"]["torch"]}\n'
    print(text)
    _write(args, {**place, 'results': results}, text)


def run_curve(args: argparse.Namespace) -> None:
    """Measure speed against image size or sequence length."""
    device = torch.device(args.device)
    how = (args.batch, args.warmup, args.rounds, args.small)
    if args.table == 'size':
        points = measure_sizes(device, *how)
    else:
        points = measure_lengths(device, args.dtype, *how)
    keys = list(points[0])
    lines = [' | '.join(keys), ' | '.join('---' for _ in keys)]
    lines += [
        ' | '.join(f'{v:.3g}' if isinstance(v, float) else str(v or '')
                   for v in point.values()) for point in points
    ]
    text = '\n'.join(f'| {line} |' for line in lines) + '\n'
    print(text)
    _write(args, {**describe(device, args), 'results': points}, text)
    if args.out:
        plot = plot_sizes if args.table == 'size' else plot_lengths
        plot(points, args.out / args.table)


def _write(args: argparse.Namespace, result: Dict[str, Any],
           text: str) -> None:
    if args.out is None:
        return
    for end, content in (('.json', json.dumps(result, indent=2) + '\n'),
                         ('.md', text)):
        with written_whole(args.out / f'{args.table}{end}') as part:
            part.write_text(content)


def main() -> None:
    args = parse_args()
    with one_line_errors(args.debug):
        if args.threads:
            torch.set_num_threads(args.threads)
        torch.manual_seed(0)
        if args.table is None:
            run_configs(args)
        elif args.table in TABLES:
            run_table(args)
        else:
            run_curve(args)


if __name__ == '__main__':
    main()
