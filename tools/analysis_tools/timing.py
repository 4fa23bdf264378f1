# Copyright (c) mmcropr contributors.
"""Clocks and what they are read for: forward passes and training steps."""
import argparse
import contextlib
import platform
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

import torch
from entries import Entry, backbone_of
from mmengine.utils import ProgressBar
from torch import Tensor
from training import TrainingStep

DTYPES = {
    'float32': (torch.float32, None),
    'float16': (torch.float16, None),
    'bfloat16': (torch.bfloat16, None),
    'amp-float16': (torch.float32, torch.float16),
    'amp-bfloat16': (torch.float32, torch.bfloat16),
}
NOISY = 0.15  # middle half of a reference's speeds / its median


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

    def take_turns(self, runs: Dict[str, Callable], warmup: int,
                   rounds: int) -> Dict[str, List[float]]:
        """Seconds of every round, by name. All run once in every round, in
        alternating order, so that a drift of the machine meets all alike."""
        seconds: Dict[str, List[float]] = {name: [] for name in runs}
        bar = ProgressBar(len(runs) * (warmup + rounds), file=sys.stderr)
        for number in range(warmup + rounds):
            for name in list(runs)[::1 if number % 2 else -1]:
                taken = self(runs[name])
                if number >= warmup:
                    seconds[name].append(taken)
                bar.update()
        print(file=sys.stderr)
        return seconds


@contextlib.contextmanager
def building_on(device: torch.device) -> Iterator[None]:
    """Build models on the device, where large weights are drawn quickly;
    raises a ValueError if they do not fit on a GPU."""
    try:
        with device:
            yield
    except torch.cuda.OutOfMemoryError as error:
        raise ValueError('the weights alone need more memory than is free: '
                         f'give --small. {error}') from error


def check_compiler(device: torch.device) -> None:
    """Raise a ValueError if ``torch.compile`` has nothing to compile with."""
    if device.type == 'cuda':
        try:
            import triton  # noqa: F401
        except ImportError:
            raise ValueError('compiled mode on a GPU needs the package '
                             'triton, or give --modes eager.') from None
    elif not any(map(shutil.which, ('c++', 'g++', 'clang++'))):
        raise ValueError('compiled mode on CPU needs a C++ compiler (g++), '
                         'and there is none here; or give --modes eager.')


def compile_all(number: int) -> None:
    """Let ``torch.compile`` compile as many models of one class anew: it
    would give up after eight, and the others run eagerly without a word."""
    dynamo = torch._dynamo
    dynamo.reset()
    limit = 'recompile_limit' if hasattr(
        dynamo.config, 'recompile_limit') else 'cache_size_limit'
    setattr(dynamo.config, limit, max(8, 4 * number))


def make_run(entry: Entry, image: Tensor, amp: Optional[torch.dtype],
             mode: str = 'eager', train: bool = False) -> Callable:
    """What is timed of an entry.

    Args:
        entry: The model.
        image: What it gets, (B, C, H, W).
        amp: Type of autocast, or None.
        mode: 'eager', 'compiled' or 'graph', see :func:`graph_of`.
        train: A training step in place of a forward pass.
    """
    module = entry.module
    if train:
        if mode == 'compiled':
            backbone = backbone_of(module)
            backbone.forward = torch.compile(backbone.forward)
        learnt = [p for p in module.parameters() if p.requires_grad]
        return TrainingStep(module, image, amp,
                            torch.optim.AdamW(learnt, lr=1e-6))
    forward = torch.compile(module) if mode == 'compiled' else module

    @torch.no_grad()
    def infer() -> None:
        # A graph would keep what is cached of weights in half precision
        context = contextlib.nullcontext() if amp is None else torch.autocast(
            image.device.type, amp, cache_enabled=mode != 'graph')
        with context:
            forward(image)

    return graph_of(infer) if mode == 'graph' else infer


def graph_of(function: Callable) -> Callable:
    """A function's kernels as one CUDA graph, which is launched at once: the
    time that the GPU works, without that of Python and of launches.

    Raises:
        ValueError: If it waits for the GPU, as post-processing of detectors
            does.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # what is made once
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            function()
    except torch.cuda.OutOfMemoryError:
        raise  # a smaller batch may fit
    except RuntimeError as error:
        raise ValueError('what waits for the GPU cannot be one CUDA graph: '
                         f'leave out --modes graph or --whole. {error}'
                         ) from error
    return graph.replay


def summarise(entries: Sequence[Entry], seconds: Dict[str, List[float]],
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


def noise(rows: Sequence[Dict[str, Any]]) -> Optional[str]:
    """What to say of a machine whose references, the rows without a ratio,
    spread too far to believe ratios; None if they do not."""
    spreads = [(row['spread'][1] - row['spread'][0]) /
               row['images_per_second'] for row in rows
               if row['ratio_to_no_pruning'] is None]
    if not spreads or max(spreads) <= NOISY:
        return None
    return (f'too noisy to believe: the middle half of a reference spreads '
            f'over {max(spreads):.0%} of its median, where {NOISY:.0%} is the '
            'bound. Stop what else runs here, or give more --rounds.')


def hardware(device: torch.device) -> str:
    """Name of what computes."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        name = next((x.split(':')[1].strip()
                     for x in lines if x.startswith('model name')), name)
    return f'{name}, {torch.get_num_threads()} threads'


def describe(device: torch.device, args: argparse.Namespace) -> Dict[str, Any]:
    """Where and how a measurement was made."""
    import timm
    settings = {
        key: value
        for key, value in vars(args).items()
        if key not in ('json', 'out', 'threads', 'debug', 'minutes')
    }
    versions = dict(
        python=platform.python_version(),
        torch=torch.__version__,
        timm=timm.__version__,
        cuda=torch.version.cuda if device.type == 'cuda' else None)
    return dict(
        hardware=hardware(device),
        date=time.strftime('%Y-%m-%d'),
        versions=versions,
        settings=settings)
