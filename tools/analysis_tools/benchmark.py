# Copyright (c) mmcropr contributors.
"""Measure inference speed of configs, as ratios within one run.

Every config runs beside two references of the same architecture and weights:
no pruning, and ideal slicing, which keeps the first K tokens without scoring
them and so is the limit that a pruner with these lengths can reach. All take
turns, so a drift of the machine's clock meets all alike.
"""
import argparse
import contextlib
import copy
import json
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import torch
from mmengine.config import Config
from mmengine.utils import ProgressBar
from torch import Tensor, nn

from mmcropr.models import CroprViT
from mmcropr.utils.build import (Encoder, WholeModel, build_for_inference,
                                 plain_model)
from mmcropr.utils.files import written_whole
from mmcropr.utils.logs import one_line_errors

sys.path.insert(0, str(Path(__file__).parent))
from references import ideal_slicing, no_pruning  # noqa: E402

DTYPES = {
    'float32': (torch.float32, None),
    'float16': (torch.float16, None),
    'bfloat16': (torch.bfloat16, None),
    'amp-float16': (torch.float32, torch.float16),
    'amp-bfloat16': (torch.float32, torch.bfloat16),
}


class Entry(NamedTuple):
    """One thing that is timed; ``none`` and ``slicing`` are the names of its
    references, None where it is one itself."""
    name: str
    module: nn.Module
    none: Optional[str]
    slicing: Optional[str]


def make_entries(configs: List[str], whole: bool) -> List[Entry]:
    """Models of all configs, with their references.

    Configs that differ in nothing but their reducers share the reference
    without pruning; those with the same lengths also share the sliced one.
    """
    wrap = WholeModel if whole else Encoder
    entries: Dict[Any, Entry] = {}
    for config in dict.fromkeys(configs):
        model_cfg = plain_model(Config.fromfile(config).model)
        model_cfg.pop('train_cfg', None)
        has_reducer = model_cfg.backbone.pop('reducer', None) is not None
        model = build_for_inference(config)
        if not isinstance(model.backbone, CroprViT):
            raise ValueError(f'{config}: its backbone is '
                             f'{type(model.backbone).__name__}, not CroprViT')
        none_key = str(model_cfg.to_dict())
        if not has_reducer:
            entries.setdefault(none_key,
                               Entry(config, wrap(model), None, None))
            continue
        if none_key not in entries:
            entries[none_key] = Entry(f'no pruning ({config})',
                                      wrap(no_pruning(model)), None, None)
        none = entries[none_key].name
        slice_key = (none_key, tuple(model.backbone.lengths()))
        if slice_key not in entries:
            entries[slice_key] = Entry(f'ideal slicing ({config})',
                                       wrap(ideal_slicing(model)), none, None)
        entries[config] = Entry(config, wrap(model), none,
                                entries[slice_key].name)
    return list(entries.values())


class Clock:
    """Times forwards of one module at a time on one device.

    Args:
        image: (B, C, H, W) on the device, in the type to run with.
        amp: Type of autocast, or None.
    """

    def __init__(self, image: Tensor, amp: Optional[torch.dtype]) -> None:
        self.image, self.device, self.amp = image, image.device, amp

    def _sync(self) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)

    @torch.no_grad()
    def __call__(self, function: Callable) -> float:
        """Seconds of one forward."""
        context = contextlib.nullcontext() if self.amp is None else (
            torch.autocast(self.device.type, self.amp))
        with context:
            self._sync()
            start = time.perf_counter()
            function(self.image)
            self._sync()
        return time.perf_counter() - start

    def peak_memory(self, function: Callable) -> Optional[float]:
        """MiB at the peak of one forward, weights of all entries included:
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


def backbone_of(module: nn.Module) -> nn.Module:
    """Backbone of an :class:`Encoder` or :class:`WholeModel`."""
    return getattr(module, 'model', module).backbone


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
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('no CUDA device here; give --device cpu')
    return args


def measure(args: argparse.Namespace) -> Dict[str, Any]:
    """Run what the command line asks for."""
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device, (dtype, amp) = torch.device(args.device), DTYPES[args.dtype]
    entries = make_entries(args.configs, args.whole)
    for entry in entries:
        entry.module.to(device, dtype)
    clocks = {}
    for entry in entries:
        channels = backbone_of(entry.module).in_channels
        image = torch.rand(args.batch, channels, *args.shape)
        clocks[entry.name] = Clock(image.to(device, dtype), amp)
    run = {
        e.name: torch.compile(e.module) if args.compile else e.module
        for e in entries
    }
    bar = ProgressBar(
        len(entries) * (args.warmup + args.rounds + 1), file=sys.stderr)
    seconds: Dict[str, List[float]] = {e.name: [] for e in entries}
    for number in range(args.warmup + args.rounds):
        order = entries if number % 2 else entries[::-1]
        for entry in order:
            taken = clocks[entry.name](run[entry.name])
            if number >= args.warmup:
                seconds[entry.name].append(taken)
            bar.update()
    rows = summarise(entries, seconds, args.batch)
    for row in rows:
        name = row['name']
        row['peak_memory_mib'] = clocks[name].peak_memory(run[name])
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
    print(f'{result["hardware"]}, {args.dtype}, batch {args.batch}, '
          f'{args.shape[0]} x {args.shape[1]} px, '
          f'{"whole model" if args.whole else "encoder"}')
    print_rows(result['results'])
    if args.json:
        with written_whole(args.json) as part:
            part.write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
    main()
