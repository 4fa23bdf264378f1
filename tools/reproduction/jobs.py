# Copyright (c) mmcropr contributors.
"""Runs of tools, one after the other or side by side, that go on where they
stopped."""
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Lock
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from mmengine.config import Config

from mmcropr.utils.files import written_whole

from .settings import ROOT

RESULT = 'result.json'
SPENT = 'seconds.txt'  # that all starts of a run took, beside its result
LEAST_SPACE = 2**28  # bytes that a run may need for its checkpoints


class Job(NamedTuple):
    """A training run.

    Args:
        name: For people.
        folder: Of its own.
        make: Gives its config.
        metric: That its evaluation gives.
        keep: Whether its last checkpoint stays.
        facts: That go into its result.
    """
    name: str
    folder: Path
    make: Callable[[], Config]
    metric: str
    keep: bool = False
    facts: Dict[str, Any] = {}

    @property
    def result(self) -> Optional[Dict[str, Any]]:
        """What came out, None if it has not ended."""
        try:
            return json.loads((self.folder / RESULT).read_text())
        except (OSError, ValueError):
            return None

    @property
    def checkpoint(self) -> Path:
        """The last one."""
        return Path((self.folder / 'last_checkpoint').read_text().strip())


class RunError(Exception):
    """A run ended with an error: its last words."""


class DiskFull(Exception):
    """No run can go on."""


def write_json(path: Path, content: Any) -> None:
    with written_whole(path) as part:
        part.write_text(json.dumps(content, indent=2) + '\n')


def cores() -> int:
    """That this process may use."""
    if hasattr(os, 'sched_getaffinity'):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_space(folder: Path) -> None:
    """Raise :class:`DiskFull` if there is no room for a run."""
    free = shutil.disk_usage(folder).free
    if free < LEAST_SPACE:
        raise DiskFull(
            f'{free / 2**20:.0f} MiB are free at {folder}, a run needs '
            f'{LEAST_SPACE / 2**20:.0f}: make room and give the same command '
            'again, it goes on where it stopped.')


def last_words(log: Path) -> str:
    """Of a run that failed: its error line, or its last line."""
    lines = [line.strip() for line in log.read_text(
        errors='replace').splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith('error: ')]
    return (errors or lines or ['it said nothing'])[-1][:300]


def read_metrics(folder: Path, metric: str) -> Dict[str, float]:
    """Of the last evaluation of a run that gave a metric."""
    found: Dict[str, float] = {}
    logs = [path for run in sorted(folder.glob('*/'))  # train.py's, test.py's
            for path in (run / 'vis_data/scalars.json',
                         run / f'{run.name}.json') if path.is_file()]
    for path in logs:
        for line in path.read_text().splitlines():
            try:
                values = json.loads(line)
            except ValueError:  # of a run that was killed as it wrote
                continue
            if metric in values:
                found = {key: value for key, value in values.items()
                         if isinstance(value, (int, float))}
    return found


def command_of(job: Job) -> List[str]:
    """That trains a job, from its config file; or evaluates it, where it was
    stopped between the two."""
    config = job.folder / 'config.py'
    if has_trained(job):
        return [sys.executable, '-W', 'ignore', str(ROOT / 'tools/test.py'),
                str(config), str(job.checkpoint), '--work-dir',
                str(job.folder)]
    begun = (job.folder / 'last_checkpoint').exists()
    return [sys.executable, '-W', 'ignore', str(ROOT / 'tools/train.py'),
            str(config), '--work-dir', str(job.folder)
            ] + ['--resume'] * begun  # yapf: disable


def has_trained(job: Job) -> bool:
    """Whether its last epoch is done."""
    if not (job.folder / 'last_checkpoint').exists():
        return False
    epochs = Config.fromfile(job.folder / 'config.py').train_cfg.max_epochs
    return job.checkpoint.name == f'epoch_{epochs}.pth'


def seconds_spent(folder: Path) -> float:
    """That the starts of a run have taken until now."""
    try:
        return float((folder / SPENT).read_text())
    except (OSError, ValueError):
        return 0.


def run(job: Job, threads: int, started: List[subprocess.Popen]) -> dict:
    """Train a job unless it has ended.

    Args:
        job: What runs.
        threads: Of its process.
        started: Gets the process, so that it can be stopped.

    Raises:
        RunError: If it fails, or no number comes out.
        DiskFull: If there is no room.
    """
    if job.result is not None:
        return job.result
    job.folder.mkdir(parents=True, exist_ok=True)
    check_space(job.folder)
    try:
        cfg = job.make()
    except Exception as error:
        raise RunError(f'its config is broken: {error}') from error
    with written_whole(job.folder / 'config.py') as part:
        part.write_text(cfg.pretty_text)
    log = job.folder / 'output.txt'
    paths = [str(ROOT), os.environ.get('PYTHONPATH', '')]
    env = dict(os.environ, OMP_NUM_THREADS=str(threads),
               PYTHONPATH=os.pathsep.join(filter(None, paths)))
    metrics = read_metrics(job.folder, job.metric)
    if not (metrics and has_trained(job)):
        before, begin = seconds_spent(job.folder), time.time()
        with open(log, 'a') as file:
            process = subprocess.Popen(command_of(job), stdout=file,
                                       stderr=file, env=env)
            started.append(process)
            code = process.wait()
        with written_whole(job.folder / SPENT) as part:
            part.write_text(f'{before + time.time() - begin}\n')
        if code:
            check_space(job.folder)
            raise RunError(last_words(log))
        metrics = read_metrics(job.folder, job.metric)
    if not metrics:
        raise RunError(f'it ended without an evaluation ({job.metric})')
    result = dict(job.facts, metrics=metrics,
                  seconds=seconds_spent(job.folder))
    write_json(job.folder / RESULT, result)
    if not job.keep:
        for path in job.folder.glob('*.pth'):
            path.unlink()
    return result


class Progress:
    """Lines about what has ended and how long the rest takes.

    Args:
        total: Number of jobs.
        done: That had ended before.
        side_by_side: That run at once.
    """

    def __init__(self, total: int, done: int, side_by_side: int) -> None:
        self.total, self.done, self.begun = total, done, time.time()
        self.before, self.width, self.lock = done, side_by_side, Lock()

    def say(self, name: str, text: str) -> None:
        with self.lock:
            self.done += 1
            fresh = self.done - self.before
            each = (time.time() - self.begun) / max(fresh, 1)
            left = each * (self.total - self.done) / 60
            print(f'[{self.done}/{self.total}] {name}: {text}; '
                  f'about {left:.0f} min left', flush=True)


def run_all(jobs: List[Job], side_by_side: int,
            describe: Callable[[dict], str],
            after: Callable[[Dict[str, str]], Any] = lambda failures: None
            ) -> Dict[str, str]:
    """Run jobs that do not need each other.

    Args:
        jobs: All of them, also those that have ended.
        side_by_side: That run at once.
        describe: A few words about a result.
        after: Called whenever one has ended, with what has failed so far.

    Returns:
        Why jobs failed, by name.

    Raises:
        DiskFull: If there is no room; the others are stopped.
    """
    waiting = [job for job in jobs if job.result is None]
    progress = Progress(len(jobs), len(jobs) - len(waiting), side_by_side)
    threads = max(1, cores() // side_by_side)
    failures: Dict[str, str] = {}
    started: List[subprocess.Popen] = []
    pool = ThreadPoolExecutor(side_by_side)
    futures = {pool.submit(run, job, threads, started): job
               for job in waiting}
    try:
        for future in as_completed(futures):
            job = futures[future]
            try:
                progress.say(job.name, describe(future.result()))
            except RunError as error:
                failures[job.name] = str(error)
                progress.say(job.name, f'FAILED: {error}')
            after(failures)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in started:
            if process.poll() is None:
                process.terminate()
        pool.shutdown()
    return failures
