# Copyright (c) mmcropr contributors.
"""Measure the speed of configs, as ratios within one run: of inference, or
with ``--train`` of whole training steps.

Every config runs beside two references of the same architecture and weights:
no pruning, and ideal slicing, which keeps the first K tokens without scoring
them and so is the limit that a pruner with these lengths can reach. All take
turns, so a drift of the machine's clock meets all alike.
"""
import argparse
import contextlib
import json
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import torch
from mmengine.utils import ProgressBar
from torch import Tensor

from mmcropr.utils.files import written_whole
from mmcropr.utils.logs import one_line_errors

sys.path.insert(0, str(Path(__file__).parent))
from entries import (Entry, backbone_of, make_entries,  # noqa: E402
                     make_training_entries)
from training import TrainingStep, parse_share  # noqa: E402

DTYPES = {
    'float32': (torch.float32, None),
    'float16': (torch.float16, None),
    'bfloat16': (torch.bfloat16, None),
    'amp-float16': (torch.float32, torch.float16),
    'amp-bfloat16': (torch.float32, torch.bfloat16),
}


class Clock:
    """Times one function at a time on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def _sync(self) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)

    def __call__(self, function: Callable) -> float:
        """Seconds of one run."""
        self._sync()
        start = time.perf_counter()
        function()
        self._sync()
        return time.perf_counter() - start

    def peak_memory(self, function: Callable) -> Optional[float]:
        """MiB at the peak of one run, weights of all entries included:
        allocated on the GPU, or resident in the process on CPU."""
        if self.device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats(self.device)
            self(function)
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        try:
            Path('/proc/self/clear_refs').write_text('5')
            self(function)
            status = Path('/proc/self/status').read_text()
        except OSError:
            return None
        peak = next(x for x in status.splitlines() if x.startswith('VmHWM'))
        return int(peak.split()[1]) / 1024


def make_run(entry: Entry, image: Tensor, amp: Optional[torch.dtype],
             args: argparse.Namespace) -> Callable:
    """What is timed of an entry."""
    module = entry.module
    if args.train:
        if args.compile:
            backbone = backbone_of(module)
            backbone.forward = torch.compile(backbone.forward)
        learnt = [p for p in module.parameters() if p.requires_grad]
        return TrainingStep(module, image, amp,
                            torch.optim.AdamW(learnt, lr=1e-6))
    forward = torch.compile(module) if args.compile else module

    @torch.no_grad()
    def infer() -> None:
        context = contextlib.nullcontext() if amp is None else (
            torch.autocast(image.device.type, amp))
        with context:
            forward(image)

    return infer


def hardware(device: torch.device) -> str:
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        name = next((x.split(':')[1].strip()
                     for x in lines if x.startswith('model name')), name)
    return f'{name}, {torch.get_num_threads()} threads'


def summarise(entries: List[Entry], seconds: Dict[str, List[float]],
              batch: int) -> List[Dict[str, Any]]:
    """Medians, spread, and ratios; a ratio is the median over rounds of the
    reference's seconds / an entry's own in the same round."""

    def ratio(name: str, reference: Optional[str]) -> Optional[float]:
        if reference is None:
            return None
        pairs = zip(seconds[reference], seconds[name])
        return statistics.median(a / b for a, b in pairs)

    rows = []
    for entry in entries:
        speeds = sorted(batch / s for s in seconds[entry.name])
        quarter = len(speeds) // 4
        rows.append(
            dict(
                name=entry.name,
                images_per_second=statistics.median(speeds),
                spread=[speeds[quarter], speeds[-1 - quarter]],
                ratio_to_no_pruning=ratio(entry.name, entry.none),
                ratio_to_ideal_slicing=ratio(entry.name, entry.slicing)))
    return rows


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


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('configs', nargs='+', metavar='CONFIG')
    parser.add_argument(
        '--shape', nargs=2, type=int, metavar=('H', 'W'), required=True)
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cuda')
    parser.add_argument('--dtype', choices=DTYPES, default='float32')
    parser.add_argument(
        '--whole', action='store_true',
        help='time the whole model, a detector with its post-processing, '
        'not just the encoder')
    parser.add_argument(
        '--compile', action='store_true', help='torch.compile every model')
    parser.add_argument(
        '--train', action='store_true',
        help='time training steps: forward, backward and AdamW, on random '
        'images and labels')
    parser.add_argument(
        '--share', type=parse_share, default=(1, 1), metavar='0..1',
        help='of the full pruning rate, in these steps (default: 1)')
    parser.add_argument('--rounds', type=int, default=20)
    parser.add_argument('--warmup', type=int, default=3)
    parser.add_argument('--threads', type=int, help='CPU threads of torch')
    parser.add_argument('--json', type=Path, help='write the result there')
    parser.add_argument(
        '--debug', action='store_true', help='show where an error is from')
    args = parser.parse_args()
    for name in ('batch', 'rounds', 'warmup'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} must be 1 or more')
    if args.train and dtype_is_half(args.dtype):
        parser.error(f'--train in {args.dtype} would not learn: give '
                     f'--dtype amp-{args.dtype}')
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('no CUDA device here; give --device cpu')
    return args


def measure(args: argparse.Namespace) -> Dict[str, Any]:
    """Run what the command line asks for."""
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device, (dtype, amp) = torch.device(args.device), DTYPES[args.dtype]
    entries = make_training_entries(
        args.configs, args.share) if args.train else make_entries(
            args.configs, args.whole)
    clock, run = Clock(device), {}
    for entry in entries:
        entry.module.to(device, dtype)
    for entry in entries:
        channels = backbone_of(entry.module).in_channels
        image = torch.rand(args.batch, channels, *args.shape)
        run[entry.name] = make_run(entry, image.to(device, dtype), amp, args)
    bar = ProgressBar(
        len(entries) * (args.warmup + args.rounds + 1), file=sys.stderr)
    seconds: Dict[str, List[float]] = {e.name: [] for e in entries}
    for number in range(args.warmup + args.rounds):
        order = entries if number % 2 else entries[::-1]
        for entry in order:
            taken = clock(run[entry.name])
            if number >= args.warmup:
                seconds[entry.name].append(taken)
            bar.update()
    rows = summarise(entries, seconds, args.batch)
    for row in rows:
        name = row['name']
        row['peak_memory_mib'] = clock.peak_memory(run[name])
        bar.update()
    print(file=sys.stderr)
    import timm
    settings = {
        k: v for k, v in vars(args).items() if k not in ('json', 'threads')}
    return dict(
        hardware=hardware(device), date=time.strftime('%Y-%m-%d'),
        versions=dict(
            python=platform.python_version(), torch=torch.__version__,
            timm=timm.__version__, cuda=torch.version.cuda
            if device.type == 'cuda' else None),
        settings=settings, results=rows)  # yapf: disable


def main() -> None:
    args = parse_args()
    with one_line_errors(args.debug):
        result = measure(args)
    what = 'training step' if args.train else (
        'whole model' if args.whole else 'encoder')
    print(f'{result["hardware"]}, {args.dtype}, batch {args.batch}, '
          f'{args.shape[0]} x {args.shape[1]} px, '
          f'{what}')
    print_rows(result['results'])
    if args.json:
        with written_whole(args.json) as part:
            part.write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
    main()
