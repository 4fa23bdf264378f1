# Copyright (c) mmcropr contributors.
"""What the command makes, leaves alone and refuses."""
import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from pytest import CaptureFixture, MonkeyPatch, TempPathFactory

from tests.digits import SMALL, contents, make, refusal, tool

pytest.importorskip('sklearn.datasets')
pytest.importorskip('pycocotools.mask')


@pytest.fixture(scope='module')
def made(tmp_path_factory: TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp('digits') / 'made')


def test_already_there(made: Path, capsys: CaptureFixture) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob('*')}
    make(made)
    make(made, '--overwrite')
    after = {path: path.stat().st_mtime_ns for path in made.rglob('*')}
    assert after == before
    assert capsys.readouterr().out.count('already there') == 2


def test_other_arguments_need_overwrite(made: Path, tmp_path: Path,
                                        capsys: CaptureFixture) -> None:
    out = make(tmp_path / 'out', '--seed', '1')
    before = contents(out)
    message = refusal(capsys, out)
    assert str(out) in message and '--overwrite' in message
    assert contents(out) == before
    make(out, '--overwrite')
    assert contents(out) == contents(made)
    assert [path.name for path in tmp_path.iterdir()] == ['out']


@pytest.mark.parametrize('marker', [None, '[]', '{}', 'no json'])
@pytest.mark.parametrize('extra', [[], ['--overwrite']])
def test_foreign_folder_is_left_alone(tmp_path: Path, capsys: CaptureFixture,
                                      marker: Optional[str],
                                      extra: list) -> None:
    out = tmp_path / 'mine'
    out.mkdir()
    (out / 'thesis.txt').write_text('three years of work')
    if marker is not None:
        (out / 'digits_scenes.json').write_text(marker)
    before = contents(tmp_path)
    message = refusal(capsys, out, *extra)
    assert str(out) in message and '--overwrite' in message
    assert contents(tmp_path) == before


@pytest.mark.parametrize('extra', [[], ['--overwrite']])
def test_interrupted_run_changes_nothing(tmp_path: Path,
                                         monkeypatch: MonkeyPatch,
                                         extra: list) -> None:
    if extra:
        make(tmp_path / 'out')
    before = contents(tmp_path)
    draw = tool.drawing.draw_scene

    def stop_late(*args: object) -> object:
        if args[2:4] == (1, 2):
            raise KeyboardInterrupt
        return draw(*args)

    monkeypatch.setattr(tool.drawing, 'draw_scene', stop_late)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / 'out', '--seed', '5', *extra)
    assert contents(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == len(extra)


def test_old_comes_back_if_the_new_cannot_be_put(
        tmp_path: Path, monkeypatch: MonkeyPatch,
        capsys: CaptureFixture) -> None:
    out = make(tmp_path / 'out')
    before = contents(tmp_path)
    rename = tool.os.rename

    def fail_for_new(source: Path, target: Path) -> None:
        if Path(source).name == 'new':
            raise OSError('no space left')
        rename(source, target)

    monkeypatch.setattr(tool.os, 'rename', fail_for_new)
    message = refusal(capsys, out, '--seed', '5', '--overwrite')
    assert 'no space left' in message
    assert contents(tmp_path) == before


@pytest.mark.parametrize('bad, words', [
    ('--num-train 0', ['--num-train', '1 or more', 'got 0']),
    ('--num-val -2', ['--num-val', '1 or more', 'got -2']),
    ('--digits 0 2', ['--digits', '1 <= MIN', '(0, 2)']),
    ('--digits 3 2', ['--digits', 'MIN <= MAX', '(3, 2)']),
    ('--digit-size 30 20', ['--digit-size', 'MIN <= MAX', '(30, 20)']),
    ('--digit-size 20 49', ['--digit-size', '<= 48', '(20, 49)']),
    ('--digit-size 0 20', ['--digit-size', '8 <= MIN', '(0, 20)']),
    ('--size 0 64', ['--size', 'at least 8 px', '(0, 64)']),
    ('--size 64', ['--size', '2 arguments']),
    ('--clutter 1.5', ['--clutter', 'from 0 to 1', 'got 1.5']),
    ('--clutter -0.1', ['--clutter', 'from 0 to 1', 'got -0.1']),
    ('--clutter nan', ['--clutter', 'from 0 to 1', 'got nan']),
    ('--seed -1', ['--seed', '0 or more', 'got -1']),
    ('--masks png', ['--masks', 'polygon', 'rle', 'png']),
    ('--jobs 0', ['--jobs', '1 or more', 'got 0']),
])
def test_bad_arguments(tmp_path: Path, capsys: CaptureFixture, bad: str,
                       words: list) -> None:
    message = refusal(capsys, tmp_path / 'deep/out', *bad.split())
    assert all(word in message for word in words), message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('module, package', [
    ('sklearn.datasets', 'scikit-learn'),
    ('pycocotools.mask', 'pycocotools'),
])
def test_missing_package(tmp_path: Path, monkeypatch: MonkeyPatch,
                         capsys: CaptureFixture, module: str,
                         package: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    message = refusal(capsys, tmp_path / 'deep/out', '--masks', 'rle')
    assert f'pip install {package}' in message
    assert not list(tmp_path.iterdir())


def test_script_runs_from_anywhere(made: Path, tmp_path: Path) -> None:
    command = [sys.executable, tool.__file__, 'a/b', *SMALL]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == 'digits scenes: 6 train, 3 val, 48x64 -> a/b\n'
    assert contents(tmp_path / 'a/b') == contents(made)


@pytest.fixture
def forks(monkeypatch: MonkeyPatch) -> list:
    """Processes that draw, as copies of this one, with what tests change."""
    started = []

    def start(**options: Any) -> BaseProcess:
        started.append(get_context('fork').Process(**options))
        return started[-1]

    monkeypatch.setattr(tool.writing, 'Process', start)
    return started


def test_several_processes_draw_the_same(made: Path, tmp_path: Path,
                                         forks: list) -> None:
    tool.main([str(tmp_path / 'b'), *SMALL, '--jobs', '2'])
    assert contents(tmp_path / 'b') == contents(made)
    assert len(forks) == 4  # two for each split
    assert not any(process.is_alive() for process in forks)


def no_room(*args: object) -> None:
    raise OSError('no room')


def die(*args: object) -> None:
    if args[3] == 1:  # a scene of the second process
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


@pytest.mark.parametrize('fail, message', [
    (no_room, 'no room'), (die, 'draws scene 1 was killed')])
def test_a_process_that_fails(tmp_path: Path, monkeypatch: MonkeyPatch,
                              capsys: CaptureFixture, forks: list,
                              fail: Callable, message: str) -> None:
    """Nothing waits for it, and nothing is left behind."""
    draw = tool.drawing.draw_scene
    monkeypatch.setattr(
        tool.drawing, 'draw_scene', lambda *args: fail(*args)
        if fail is no_room or args[3] else draw(*args))
    assert message in refusal(capsys, tmp_path / 'b', '--jobs', '2')
    assert not list(tmp_path.iterdir())
    assert not any(process.is_alive() for process in forks)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_several_draw(tmp_path: Path, number: int) -> None:
    """By a signal to all of them, as a terminal or a scheduler sends it."""
    # A shell lets jobs in the background ignore SIGINT, and so all they start
    process = subprocess.Popen(
        [sys.executable, tool.__file__, str(tmp_path / 'b'), '--num-train',
         '5000', '--jobs', '2'], start_new_session=True,
        stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL))  # yapf: disable
    while not list(tmp_path.glob('.b-*/new/images/train/*')):
        assert process.poll() is None, process.stderr
        time.sleep(.05)
    os.killpg(process.pid, number)
    process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    assert not list(tmp_path.iterdir())
