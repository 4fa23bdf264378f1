# Copyright (c) mmcropr contributors.
"""Commands of the set-up: followed, stopped and explained."""
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from types import FrameType
from typing import IO, Callable, Dict, List, NoReturn, Optional, Tuple

ROOT = Path(__file__).resolve().parents[2]
BEAT = 30.  # seconds without a line until it says what goes on
GRACE = 10.  # seconds that an interrupted command has to tidy up
TAIL = 30  # lines that are shown of a command that failed
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
BIG = re.compile(r'(?:Downloading|Using cached|Processing) (?:\S*/)?'
                 r'(\S+) \((\d+\.\d GB|\d\d\d*\.\d MB)\)')
# Looks at a line: is it worth saying, and in which words
Reader = Callable[[str], Tuple[bool, str]]


def say(text: str) -> None:
    print(f'[setup] {text}', flush=True)


def fail(text: str) -> NoReturn:
    sys.exit(f'[setup] error: {text}')


def output(cmd: List[str], env: Optional[Dict[str, str]] = None) -> str:
    """Standard output of ``cmd``, or '' if it cannot run."""
    try:
        return subprocess.run([str(c) for c in cmd], capture_output=True,
                              text=True, check=True, env=env).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ''


def read_pip(line: str) -> Tuple[bool, str]:
    """pip's line about something big, or about what it does now."""
    big = BIG.search(line)
    if big:
        return True, f'loading {big[1]} ({big[2]})'
    if line.startswith('Installing collected packages: '):
        number = line.count(',') + 1
        return True, f'unpacking {number} package{"s" * (number > 1)}'
    if line.startswith('ERROR'):
        return True, line
    known = ('Collecting', 'Downloading', 'WARNING: Retrying')
    return False, line if line.strip().startswith(known) else ''


def read_ninja(line: str) -> Tuple[bool, str]:
    """ninja's ``[12/130] c++ ...``."""
    count = re.match(r'\[(\d+)/(\d+)\]', line)
    return False, f'{count[1]} of {count[2]} files' if count else ''


def catch_signals() -> None:
    """Let Ctrl-C, a kill and a closed terminal all end the same way: as a
    KeyboardInterrupt that holds the signal. Further ones are ignored, so that
    what is running can be stopped in peace."""

    def stop(number: int, frame: Optional[FrameType]) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt(number)

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, `&`
            signal.signal(number, stop)


def stop_group(child: subprocess.Popen) -> None:
    """End ``child`` and all that it started; it may tidy up before."""
    for number, patience in ((signal.SIGINT, GRACE), (signal.SIGKILL, None)):
        try:
            os.killpg(child.pid, number)
            child.wait(patience)
            return
        except ProcessLookupError:  # it ended by itself
            return
        except subprocess.TimeoutExpired:
            continue


def run(cmd: List[str],
        what: str = '',
        read: Optional[Reader] = None,
        log: Optional[Path] = None,
        hint: str = '',
        cwd: Path = ROOT,
        env: Optional[Dict[str, str]] = None,
        keep: Tuple[int, ...] = ()) -> None:
    """Run ``cmd``; stop with its last lines if it fails.

    Args:
        cmd: The command. It gets a process group of its own, so that Ctrl-C
            reaches it through :func:`stop_group` only, and silently.
        what: Name of the step, for the line that comes every :data:`BEAT`
            seconds in which nothing else was said.
        read: Chooses from its output what is said; by default all of it is.
        log: File that keeps the whole output.
        hint: Said in addition if it fails.
        cwd: Where it runs.
        env: Its environment.
        keep: File descriptors that it inherits (a lock).

    Raises:
        SystemExit: If it fails.
    """
    cmd = [str(c) for c in cmd]
    child = subprocess.Popen(
        cmd, cwd=cwd, env=env, stdin=subprocess.DEVNULL, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors='replace',
        start_new_session=True, pass_fds=keep)  # yapf: disable
    try:
        with open(log or os.devnull, 'a') as copy:
            tail = follow(child, what, read, copy)
        code = child.wait()
    except BaseException:
        stop_group(child)
        raise
    if code:
        print('\n'.join(tail), file=sys.stderr)
        fail(f'`{" ".join(cmd)}` ended with exit code {code}. Mend what it '
             'says above and run the same command again: finished steps are '
             f'kept.{hint}')


def follow(child: subprocess.Popen, what: str, read: Optional[Reader],
           copy: IO[str]) -> List[str]:
    """Say what ``child`` does until it closes its output.

    Returns:
        Its last lines that were not said.
    """
    lines: queue.Queue = queue.Queue()

    def listen() -> None:
        for line in child.stdout:
            lines.put(line.rstrip('\n'))
        lines.put(None)

    threading.Thread(target=listen, daemon=True).start()
    tail, state = deque(maxlen=TAIL), ''
    start = said = time.time()
    while True:
        try:
            line = lines.get(timeout=min(BEAT, 1))
        except queue.Empty:
            line = ''
        if line is None:
            return list(tail)
        if line:
            copy.write(line + '\n')
            copy.flush()
            if read is None:
                print(line, flush=True)
                said = time.time()
                continue
            tail.append(line)
            worth, text = read(line)
            state = text or state
            if worth:
                say(text)
                said = time.time()
        if time.time() - said >= BEAT:
            said = time.time()
            say(f'... {what}, {said - start:.0f} s' +
                (f': {state}' if state else ''))


def pip(python: Path,
        *args: str,
        what: str = 'pip',
        env: Optional[Dict[str, str]] = None) -> None:
    run([python, '-m', 'pip', '--disable-pip-version-check', *args], what,
        read_pip, env=env)
