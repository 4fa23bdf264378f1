# Copyright (c) mmcropr contributors.
"""Run the tests marked ``gpu`` and measure the published speed tables, as far
as a time limit allows, and write all of it to one JSON file."""
import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

import torch

from mmcropr.utils.files import written_whole
from mmcropr.utils.logs import one_line_errors

sys.path.insert(0, str(Path(__file__).parent))
from timing import describe  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
RESERVE = 5  # seconds, to write the result


class Step(NamedTuple):
    """One measurement.

    Args:
        name: Of its part of the result.
        options: Of benchmark.py.
        host: Package that it needs.
        seconds: That it may take at most.
    """
    name: str
    options: List[str]
    host: Optional[str] = None
    seconds: float = 120.


def steps(cuda: bool) -> List[Step]:
    """What is measured, the most telling first."""
    if not cuda:
        quick = ['--small', '--device', 'cpu', '--rounds', '2', '--warmup',
                 '1']
        return [
            Step('seg', ['--table', 'seg', *quick, '--modes', 'eager']),
            Step('length', ['--table', 'length', *quick])
        ]
    amp = ['--device', 'cuda', '--dtype', 'amp-float16', '--warmup', '3']
    seg, eager = ['--table', 'seg', *amp], ['--modes', 'eager']
    step = ['--train', '--shape', '512', '512', *amp]
    config = 'configs/cropr/cropr-r40{}_eva02-l_linear_1xb8-amp-64e_ade20k-' \
        '512x512.py'
    return [
        Step('seg', [*seg, '--rounds', '10', *eager]),
        Step('training', [
            config.format(''), *step, '--batch', '8', '--rounds', '5']),
        Step('seg_batch_1', [*seg, '--rows', 'Random', 'Cropr', '--batch',
                             '1', '--rounds', '30', '--modes', 'eager',
                             'graph']),
        Step('det', ['--table', 'det', *amp, '--rounds', '8', *eager],
             'mmdet'),
        Step('training_batch_32', [
            config.format(''), config.format('-fast'), *step, '--batch', '32',
            '--rounds', '4', '--warmup', '2']),
        Step('cls', ['--table', 'cls', *amp, '--rounds', '8', *eager],
             'mmpretrain'),
        Step('eva02', ['--table', 'eva02', *amp, '--rounds', '8', *eager],
             'mmpretrain'),
        Step('ablation', ['--table', 'ablation', *amp, '--rounds', '10',
                          *eager], 'mmpretrain'),
        Step('length', ['--table', 'length', *amp, '--rounds', '10']),
        Step('seg_compiled', [*seg, '--rows', 'Cropr', '--rounds', '10',
                              '--modes', 'compiled'], seconds=200.),
        Step('size', ['--table', 'size', '--device', 'cuda', '--batch', '8',
                      '--rounds', '5', '--warmup', '2'], 'mmpretrain'),
    ]  # yapf: disable


def run_tests(seconds: float, folder: Path) -> Dict[str, Any]:
    """Outcomes of the tests marked ``gpu``: their number by outcome, what
    failed with its message, and why others were skipped."""
    report = folder / 'tests.xml'
    command = [
        sys.executable, '-m', 'pytest', '-m', 'gpu', 'tests/test_gpu.py',
        '-q', '-p', 'no:cacheprovider', f'--junitxml={report}']
    error = run_command(command, seconds)
    if not report.is_file():
        return dict(error=error or 'pytest wrote no report')
    return read_report(report)


def read_report(report: Path) -> Dict[str, Any]:
    """Outcomes in a file of pytest's ``--junitxml``."""
    failed, skipped, passed = {}, Counter(), 0
    for case in ElementTree.parse(report).iter('testcase'):
        name = case.get('name')
        problem = next(
            (part for part in case if part.tag in ('failure', 'error')), None)
        skip = case.find('skipped')
        if problem is not None:
            failed[name] = problem.get('message', '')
        elif skip is not None:
            skipped[skip.get('message', '')] += 1
        else:
            passed += 1
    return dict(passed=passed, failed=failed, skipped=dict(skipped))


def run_command(command: List[str], seconds: float) -> Optional[str]:
    """Run a command; what went wrong, or None."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, timeout=seconds, stderr=subprocess.PIPE,
            text=True)
    except subprocess.TimeoutExpired:
        return f'stopped at the time limit, after {seconds:.0f} s'
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return '\n'.join(lines[-3:]) or f'exit status {done.returncode}'


def run_step(step: Step, seconds: float, folder: Path) -> Dict[str, Any]:
    """Result of benchmark.py, or why there is none."""
    if step.host and importlib.util.find_spec(step.host) is None:
        return dict(skipped=f'{step.host} is not installed')
    if seconds < 20:
        return dict(skipped='no time left')
    options, own = step.options, folder / step.name
    if '--table' in options:
        where = ['--out', str(own)]
        found = own / f'{options[options.index("--table") + 1]}.json'
    else:
        found = own / 'result.json'
        where = ['--json', str(found)]
    begin = time.monotonic()
    error = run_command([
        sys.executable, 'tools/analysis_tools/benchmark.py', *options, *where
    ], min(seconds, step.seconds))
    result = dict(error=error) if error else json.loads(found.read_text())
    return dict(result, seconds=round(time.monotonic() - begin))


def time_selection() -> List[Dict[str, Any]]:
    """Microseconds of selecting 40 rows to prune, by the plain operations and
    by the Triton kernel, for some batches and numbers of scores; nothing where
    the kernel does not run."""
    from torch.utils.benchmark import Timer

    from mmcropr.structures import rows as ours
    rows: List[Dict[str, Any]] = []
    if not ours._kernel_works(torch.device('cuda', 0)):
        return rows
    from mmcropr.structures.fused_select import fused_select
    for batch, count in ((1, 1024), (8, 1024), (32, 1024), (1, 9216)):
        scores = torch.randn(batch, count, device='cuda')
        numbers = ours.Numbers.up_to(scores.numel(), scores.device)
        names = dict(scores=scores, keep=count - 40, numbers=numbers,
                     plain=ours._select_plainly, fused=fused_select)
        rows.append(dict(batch=batch, count=count, **{
            name: 1e6 * Timer(call, globals=names).blocked_autorange().median
            for name, call in (
                ('plain', 'plain(scores, keep, 0, numbers)'),
                ('fused', 'fused(scores, keep)'))}))
    return rows


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', nargs='?', type=Path, metavar='OUT.json',
                        help='default: docs/benchmarks/gpu_check_DEVICE.json')
    parser.add_argument('--minutes', type=float, default=8.)
    parser.add_argument(
        '--steps', nargs='+', metavar='NAME', choices=[
            'tests',
            *(step.name for step in steps(torch.cuda.is_available()))],
        help='only these: tests, or measurements by name (default: all)')
    parser.add_argument(
        '--debug', action='store_true', help='show where an error is from')
    args = parser.parse_args()
    if not 0 < args.minutes:
        parser.error('--minutes must be above 0')
    return args


def main() -> None:
    args, start = parse_args(), time.monotonic()
    cuda = torch.cuda.is_available()
    device = torch.device('cuda' if cuda else 'cpu')

    def left() -> float:
        return 60 * args.minutes - RESERVE - (time.monotonic() - start)

    def asked(name: str) -> bool:
        return args.steps is None or name in args.steps

    result = describe(device, args)
    result.update(tests=dict(skipped='not asked for'), tables={})
    name = ''.join(
        c if c.isalnum() else '-' for c in result['hardware'].lower())
    out = args.out or ROOT / f'docs/benchmarks/gpu_check_{name}.json'

    if args.steps and out.is_file():  # the others stay
        old = json.loads(out.read_text())
        result.update({key: old[key] for key in ('tests', 'tables')
                       if key in old})

    def write() -> None:
        # After every step: whoever lends a GPU may take it back
        with written_whole(out) as part:
            part.write_text(json.dumps(result, indent=2) + '\n')

    if not cuda:
        print('No CUDA device here: what follows is of the CPU.')
    with one_line_errors(args.debug), tempfile.TemporaryDirectory() as folder:
        if asked('tests'):
            result['tests'] = run_tests(left(), Path(folder))
        if cuda and args.steps is None:
            result['selection_us'] = time_selection()
        write()
        for step in steps(cuda):
            if asked(step.name):
                result['tables'][step.name] = run_step(
                    step, left(), Path(folder))
                write()
    print(f'{out}: {result["tests"]}')
    for name, table in result['tables'].items():
        print(f'{name}: {table.get("skipped") or table.get("error") or "ok"}')
    tables = result['tables'].values()
    if result['tests'].get('failed') or 'error' in result['tests'] or any(
            'error' in table for table in tables):
        raise SystemExit(1)


if __name__ == '__main__':
    main()
