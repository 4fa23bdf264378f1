# Copyright (c) mmcropr contributors.
"""Train every row of a published accuracy table at small scale, and compare.

Makes the data and the start without pruning where they are missing. Stopped
and started again with the same arguments it goes on where it was.
"""
import argparse
import json
import shlex
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, List, NoReturn, Optional, Sequence, Tuple

TOOLS = Path(__file__).resolve().parent
sys.path[:0] = [str(TOOLS), str(TOOLS / 'analysis_tools')]
from reproduction import report  # noqa: E402
from reproduction.jobs import (RESULT, DiskFull, Job, cores,  # noqa: E402
                               run_all, write_json)
from reproduction.rows import TABLES, Row, choose, curve_rows  # noqa: E402
from reproduction.settings import (SCALES, TASKS, Scale,  # noqa: E402
                                   base_config, row_config)

from mmcropr.utils.files import (claim_folder, clean_exit,  # noqa: E402
                                 written_whole)
from mmcropr.utils.logs import one_line_errors  # noqa: E402

ROOT = TOOLS.parent


class Parser(argparse.ArgumentParser):
    """Ends with one line, without its usage."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add('--table', required=True, choices=list(TABLES))
    add('--scale', default='tiny', choices=list(SCALES),
        help='tiny: for two CPU cores; small: for one GPU')
    add('--seeds', type=int, default=3, help='0 to N - 1 (default: 3)')
    add('--jobs', type=int, default=1, help='runs side by side')
    add('--workers', type=int, help='processes that load the data of a run '
        '(default: 0; 4 at scale small)')
    add('--rows', nargs='+', metavar='NAME', help='only these')
    add('--curve', action='store_true',
        help='accuracy against the share that is pruned')
    add('--start', type=Path, metavar='CHECKPOINT',
        help='of the model without pruning, for all rows, also those that '
        'read out the class token; made if it is not given')
    add('--out', type=Path, default=Path('work_dirs/reproduce'),
        help='folder of all runs (default: work_dirs/reproduce)')
    add('--data', type=Path, help='folder of the data sets (default: data, '
        'data/small at that scale)')
    add('--only-start', action='store_true', help='stop before the rows')
    add('--other-commit', action='store_true',
        help='go on in a folder of another commit')
    add('--debug', action='store_true', help='show tracebacks of errors')
    args = parser.parse_args(argv)
    if args.rows and len(set(args.rows)) < len(args.rows):
        parser.error('--rows names one twice')
    for name, least in (('seeds', 1), ('jobs', 1), ('workers', 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            parser.error(f'--{name} must be {least} or more, got {value}')
    if args.start is not None and not args.start.is_file():
        parser.error(f'no checkpoint at {args.start}')
    return args


@lru_cache(maxsize=None)
def commit() -> str:
    """Of this repository; a + behind it where files differ."""
    def git(*words: str) -> str:
        return subprocess.run(
            ['git', *words], cwd=ROOT, capture_output=True,
            text=True).stdout.strip()

    number = git('rev-parse', '--short=12', 'HEAD') or 'unknown'
    changed = git('status', '--porcelain', '--untracked-files=no')
    return number + '+' * bool(changed)


def scale_of(args: argparse.Namespace) -> Scale:
    """How large everything is, with the workers that were asked for."""
    scale = SCALES[args.scale]
    return scale if args.workers is None else scale._replace(
        workers=args.workers)


def check_folder(folder: Path, facts: Dict[str, Any], other: bool) -> None:
    """Remember what the runs of a folder are of; what an attempt without a
    run said is forgotten.

    Args:
        folder: Of runs.
        facts: ``commit``, and what else all of them share.
        other: Whether they may be of another commit.

    Raises:
        ValueError: If it is of another commit, and ``other`` is not given, or
            if something else differs.
    """
    path = folder / 'run.json'
    if path.exists() and any(part.is_dir() for part in folder.iterdir()):
        old = json.loads(path.read_text())
        changed = [key for key in facts if old.get(key) != facts[key]
                   and not (other and key == 'commit')]
        if changed:
            raise ValueError(
                f'{folder} has runs of ' + ', '.join(
                    f'{key} {old.get(key)} (now {facts[key]})'
                    for key in changed) + ': give another --out' +
                (', or --other-commit to go on with them.'
                 if changed == ['commit'] else '.'))
    write_json(path, facts)


def check_first(args: argparse.Namespace, rows: Sequence[Row]) -> None:
    """What can be said before anything is made, written or trained.

    Raises:
        ValueError: If the config of the rows or of one of their starts cannot
            be read, or data of another scale are in their place.
    """
    task, names = TASKS[TABLES[args.table].task], []
    if args.start is None:
        for pool in sorted({row.pool for row in rows}):
            names += task.starts_of(pool)
    for name in dict.fromkeys([task.fine_tuning, *names]):
        try:
            cfg = base_config(name, scale_of(args), args.data)
        except Exception as error:  # a config is code
            raise ValueError(f'configs/no_pruning/{name} cannot be used: '
                             f'{type(error).__name__}: {error}') from error
        has_data(cfg)


def has_data(cfg: Any) -> bool:
    """Whether the data of a config are there.

    Raises:
        ValueError: If they are of another scale.
    """
    words = shlex.split(cfg.data_command)
    root = Path(words[2])
    marker = root / 'digits_scenes.json'
    if not marker.exists():
        return False
    made = json.loads(marker.read_text()).get('arguments', {})
    there = made.get('num_scenes', {}).get('train', 'unknown')
    wanted = int(words[words.index('--num-train') + 1])
    if there != wanted:
        raise ValueError(
            f'{root} has {there} training scenes, and this scale trains '
            f'on {wanted}: give another --data, or remove {root}')
    return True


def make_data(cfg: Any) -> None:
    """Run the command of a config that makes its data, on all cores; does
    nothing where they are there.

    Raises:
        ValueError: If data of another scale are there, or it fails.
    """
    if has_data(cfg):
        return
    words = shlex.split(cfg.data_command)
    root = Path(words[2])
    words = [sys.executable, str(ROOT / words[1]), *words[2:], '--jobs',
             str(cores())]
    print(f'making {root}', flush=True)
    process = subprocess.Popen(words, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    try:
        said, errors = process.communicate()
    except KeyboardInterrupt:  # a terminal sends it to both
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        raise
    finally:
        process.terminate()  # it takes away what is not whole
        process.wait()
    if process.returncode:
        lines = errors.strip().splitlines() or [
            f'it ended with {process.returncode}']
        raise ValueError(f'{shlex.join(words)}: {lines[-1]}')
    print(said.strip(), flush=True)


def make_starts(args: argparse.Namespace, folder: Path,
                rows: Sequence[Row]) -> Dict[str, Path]:
    """Checkpoints without pruning that rows begin with, by their ``pool``."""
    task, pools = TASKS[TABLES[args.table].task], {row.pool for row in rows}
    if args.start is not None:
        return dict.fromkeys(pools, args.start.resolve())
    lock = claim_folder(folder)  # tables share it
    check_folder(folder, dict(commit=commit(), data=str(args.data)),
                 args.other_commit)
    made: Dict[str, Path] = {}
    for pool in sorted(pools):
        last = None
        for name in task.starts_of(pool):
            if name not in made:
                made[name] = train_start(args, folder, name, last)
            last = made[name]
    lock.close()
    return {pool: made[task.starts_of(pool)[-1]] for pool in pools}


def train_start(args: argparse.Namespace, folder: Path, name: str,
                before: Optional[Path]) -> Path:
    """Checkpoint of a config without pruning that begins with another.

    Raises:
        ValueError: If its training fails.
    """
    cfg = base_config(name, scale_of(args), args.data, before)
    make_data(cfg)
    job = Job(f'start {Path(name).stem}', folder / Path(name).stem,
              lambda: cfg, metric_of(name), keep=True,
              facts=dict(commit=commit()))
    if job.result is None:
        print(f'training {job.name}', flush=True)
        failures = run_all([job], 1, lambda r: _words(r['metrics']))
        if failures:
            raise ValueError(f'{job.name} failed: '
                             f'{failures[job.name]}; see {job.folder}')
    return job.checkpoint.resolve()


def metric_of(start: str) -> str:
    """That the training of a start is measured by; those on the way to
    another one segment."""
    task = next((task for task, settings in TASKS.items()
                 if start in settings.last_starts), 'seg')
    return next(t.metric for t in TABLES.values() if t.task == task)


def _words(metrics: Dict[str, float]) -> str:
    named = {k: v for k, v in metrics.items()
             if k in {t.metric for t in TABLES.values()}}
    return ', '.join(f'{k} {v:.4g}' for k, v in named.items()) or 'done'


def make_jobs(args: argparse.Namespace, folder: Path, rows: Sequence[Row],
              starts: Dict[str, Path], seeds: int) -> List[Job]:
    """Runs of rows, seed by seed, so that early ones give a table."""
    table, scale = TABLES[args.table], scale_of(args)
    name = TASKS[table.task].fine_tuning

    def make(row: Row, seed: int) -> Any:
        cfg = base_config(name, scale, args.data, starts[row.pool])
        return row_config(row, table, cfg, seed)

    jobs = []
    for seed in range(seeds):
        for row in rows:
            own = folder / f'{_file_name(row.name)}-seed{seed}'
            jobs.append(
                Job(f'{row.name}, seed {seed}', own,
                    lambda row=row, seed=seed: make(row, seed), table.metric,
                    facts=dict(row=row.name, seed=seed, commit=commit(),
                               share=row.share,
                               config=f'{own.name}/config.py')))
    return jobs


def _file_name(name: str) -> str:
    return ''.join(c if c.isalnum() else '-' for c in name.lower())


def write_report(args: argparse.Namespace, folder: Path,
                 rows: Sequence[Row], jobs: List[Job],
                 failures: Dict[str, str], facts: Dict[str, Any]) -> str:
    """Write the table of what has ended, and the curve; the table."""
    table = TABLES[args.table]
    results = [job.result for job in jobs if job.result is not None]
    lines = report.collect(table, rows, results, failures)
    tau = report.tau_of(table, rows, lines)
    stem = folder / ('curve' if args.curve else 'table')
    text = report.markdown(table.title, lines, tau, facts)
    with written_whole(stem.with_suffix('.md')) as part:
        part.write_text(text)
    write_json(stem.with_suffix('.json'), dict(
        facts, rows=lines, kendall=tau and tau._asdict()))
    points = report.curve_points(table, rows, lines) if args.curve else []
    if points:
        import plots
        plots.plot_shares(points, table.title, stem)
    return text


def ended_in(folder: Path) -> List[Dict[str, Any]]:
    """Results of all runs in a folder."""
    return [json.loads(path.read_text())
            for path in sorted(folder.glob(f'*-seed*/{RESULT}'))]


def known_rows(args: argparse.Namespace, folder: Path,
               chosen: Sequence[Row]) -> Sequence[Row]:
    """Rows of the table of a folder: all that it has by default, those that
    are asked for now, and those that were before."""
    if not args.curve:
        return choose(args.table, None)
    before = {result['row'] for result in ended_in(folder)}
    every = curve_rows(args.table, tuple(
        row.name for row in TABLES[args.table].rows if row.method))
    by_default = curve_rows(args.table, None)
    return tuple(row for row in every if row in by_default or row in chosen
                 or row.name in before)


def plan(args: argparse.Namespace
         ) -> Tuple[Path, Sequence[Row], Sequence[Row]]:
    """Folder of the table, its rows, and those that shall run."""
    names = tuple(args.rows) if args.rows else None
    chosen = (curve_rows if args.curve else choose)(args.table, names)
    if args.data is None:
        args.data = Path('data') / ('' if args.scale == 'tiny' else args.scale)
    args.data = args.data.resolve()
    args.out = args.out.resolve() / args.scale
    folder = args.out / (args.table + '-curve' * args.curve)
    return folder, known_rows(args, folder, chosen), chosen


def reproduce(args: argparse.Namespace) -> bool:
    """Everything; whether all rows have ended well."""
    folder, rows, chosen = plan(args)
    check_first(args, chosen)
    lock = claim_folder(folder)
    task = TASKS[TABLES[args.table].task]  # each start makes its own data
    facts = dict(
        commit=commit(), scale=args.scale, data=str(args.data),
        start=str(args.start.resolve()) if args.start else (
            'trained by ' + ', '.join(
                (*task.starts[:-1], *task.last_starts))))
    check_folder(folder, facts, args.other_commit)
    make_data(base_config(task.fine_tuning, scale_of(args), args.data))
    starts = make_starts(args, args.out / 'start', chosen)
    for start in sorted(set(starts.values())):
        print(f'start: {start}', flush=True)
    if args.only_start:
        return True
    jobs = make_jobs(args, folder, chosen, starts, args.seeds)
    # Whatever has ended here before is a part of the table, asked for or not
    seeds = max([args.seeds - 1, *(r['seed'] for r in ended_in(folder))]) + 1
    known = make_jobs(args, folder, rows, starts, seeds)
    facts = dict(facts, seeds=seeds, command=shlex.join(
        ['python', 'tools/reproduce.py', *args.words]))

    def write(failures: Dict[str, str]) -> str:
        return write_report(args, folder, rows, known, failures, facts)

    failures = run_all(jobs, args.jobs, lambda r: _words(r['metrics']), write)
    print(write(failures))
    lock.close()
    return not failures


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command line; exits with 1 if a row has failed."""
    words = list(sys.argv[1:] if argv is None else argv)
    with one_line_errors('--debug' in words, ValueError, DiskFull, OSError):
        args = parse_args(words)
        args.words = words
        with clean_exit():  # SIGTERM stops what was started, too
            good = reproduce(args)
    if not good:
        raise SystemExit(1)


if __name__ == '__main__':
    main()
