# Copyright (c) mmcropr contributors.
"""Runs of the reproduced tables: what ends, fails and goes on."""
import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from tests.utils import ROOT, load_tool

reproduce = load_tool('reproduce.py')
jobs = sys.modules['reproduction.jobs']
rows = sys.modules['reproduction.rows']
settings = sys.modules['reproduction.settings']


def link_data(digits, folder, scenes):
    """The same scenes under a marker that has another number of them."""
    folder.mkdir(parents=True)
    for path in digits.iterdir():
        (folder / path.name).symlink_to(path)
    marker = folder / 'digits_scenes.json'
    made = json.loads(marker.read_text())
    made['arguments']['num_scenes']['train'] = scenes
    marker.unlink()
    marker.write_text(json.dumps(made))


@pytest.fixture
def ready(digits, tmp_path, monkeypatch):
    """Arguments for a table whose runs are one iteration each."""
    link_data(digits, tmp_path / 'data/digits_photos', 3000)
    scale = settings.Scale(epochs=.5)
    monkeypatch.setitem(settings.SCALES, 'tiny', scale)
    cfg = settings.base_config(settings.TASKS['seg'].fine_tuning, scale,
                               tmp_path / 'data')
    init_default_scope('mmseg')
    torch.save(MODELS.build(cfg.model).state_dict(), tmp_path / 'start.pth')
    return ['--table', 'seg', '--seeds', '1', '--out', str(tmp_path / 'out'),
            '--data', str(tmp_path / 'data'), '--start',
            str(tmp_path / 'start.pth')]


def test_a_table_whose_row_fails_goes_on(ready, tmp_path, monkeypatch,
                                         capsys):
    table = rows.TABLES['seg']
    broken = rows.Row('Broken', 'Random', reducer=dict(keep=[3]))
    monkeypatch.setitem(rows.TABLES, 'seg', table._replace(
        rows=(*table.rows, broken)))
    words = [*ready, '--rows', 'Broken', 'Random']
    with pytest.raises(SystemExit) as stop:
        reproduce.main(words)
    assert stop.value.code == 1
    said = capsys.readouterr().out
    assert '[2/2]' in said and 'min left' in said
    folder = tmp_path / 'out/tiny/seg'
    found = json.loads((folder / 'table.json').read_text())
    lines = {line['row']: line for line in found['rows']}
    assert 'median' not in lines['Broken']
    why = lines['Broken']['failures']['Broken, seed 0']
    assert 'rate, tpr, keep' in why
    assert 0 < lines['Random']['median'] < 100
    assert lines['Random']['precision'] > 0
    assert (folder / lines['Random']['config']).exists()
    assert 'failed: Broken, seed 0' in (folder / 'table.md').read_text()
    assert not list(folder.glob('*/epoch*.pth'))
    # Again, for one of them: nothing is left to do, and the table has both
    times = [p.stat().st_mtime_ns for p in folder.glob('*/result.json')]
    reproduce.main([*ready, '--rows', 'Random'])
    assert times == [p.stat().st_mtime_ns
                     for p in folder.glob('*/result.json')]
    assert '[' not in capsys.readouterr().out.split('#')[0]
    again = json.loads((folder / 'table.json').read_text())
    assert {line['row']: line.get('median') for line in again['rows']} == {
        line['row']: line.get('median') for line in found['rows']}
    # A run of another seed is there, and one of no row: both are left alone
    more = folder / 'random-seed1'
    shutil.copytree(folder / 'random-seed0', more)
    result = json.loads((more / 'result.json').read_text())
    result.update(seed=1, metrics=dict(result['metrics'], mIoU=50.))
    (more / 'result.json').write_text(json.dumps(result))
    (folder / 'random-seed1.old').mkdir()
    reproduce.main([*ready, '--rows', 'Random'])
    again = json.loads((folder / 'table.json').read_text())
    lines = {line['row']: line for line in again['rows']}
    assert lines['Random']['seeds']['1'] == 50. and again['seeds'] == 2


def job(folder: Path, make=lambda: None) -> jobs.Job:
    return jobs.Job(folder.name, folder, make, 'mIoU',
                    facts=dict(row='r', seed=0))


def test_a_full_disk_stops_everything(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage',
                        lambda path: SimpleNamespace(free=0))
    with pytest.raises(jobs.DiskFull, match='make room.*goes on'):
        jobs.run_all([job(tmp_path / 'a'), job(tmp_path / 'b')], 1, str)


def test_broken_config(tmp_path):
    def make():
        raise KeyError('no such reducer')

    failures = jobs.run_all([job(tmp_path / 'a', make)], 1, str)
    assert 'no such reducer' in failures['a'] and 'config' in failures['a']


def test_goes_on_from_a_checkpoint(tmp_path):
    one = job(tmp_path)
    assert '--resume' not in jobs.command_of(one)
    (tmp_path / 'last_checkpoint').write_text('epoch_2.pth')
    (tmp_path / 'config.py').write_text('train_cfg = dict(max_epochs=3)')
    assert '--resume' in jobs.command_of(one)


def test_stopped_in_the_last_evaluation(tmp_path, monkeypatch):
    """The checkpoint of the last epoch is evaluated, and only then there is a
    result."""
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_3.pth'))
    (tmp_path / 'epoch_3.pth').write_text('weights')
    (tmp_path / jobs.SPENT).write_text('100.5')  # by the start before
    log = tmp_path / '1/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text('{"tokens/kept_behind_block0": 0.8, "step": 2}\n')
    make = partial(Config, dict(train_cfg=dict(max_epochs=3)))
    tested = tmp_path / '2'
    script = (f'import pathlib; p = pathlib.Path({str(tested)!r}); p.mkdir(); '
              '(p / "2.json").write_text(\'{"mIoU": 7.0}\')')
    asked = []

    def command(job):
        asked.append(command_of(job))
        return [sys.executable, '-c', script]

    command_of = jobs.command_of
    monkeypatch.setattr(jobs, 'command_of', command)
    found = jobs.run(job(tmp_path, make), 1, [])
    assert asked[0][3].endswith('tools/test.py')
    assert asked[0][5].endswith('epoch_3.pth')
    assert found['metrics'] == {'mIoU': 7.0}
    assert 100.5 < found['seconds'] < 200
    assert not (tmp_path / 'epoch_3.pth').exists()


def test_no_number_no_result(tmp_path, monkeypatch):
    """Weights stay where an evaluation says nothing."""
    (tmp_path / 'epoch_1.pth').write_text('weights')
    monkeypatch.setattr(jobs, 'command_of',
                        lambda job: [sys.executable, '-c', 'pass'])
    with pytest.raises(jobs.RunError, match='without an evaluation'):
        jobs.run(job(tmp_path, partial(Config, {})), 1, [])
    assert (tmp_path / 'epoch_1.pth').exists()
    assert not (tmp_path / 'result.json').exists()


SCRIPT = """
import sys
from pathlib import Path
from mmengine.config import Config
from mmcropr.utils.files import clean_exit
sys.path.insert(0, sys.argv[1])
from reproduction import jobs

folder = Path(sys.argv[2])
child = ("import os, sys, time; "
         "open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(100)")
jobs.command_of = lambda job: [sys.executable, '-c', child,
                               str(folder / 'begun')]
with clean_exit():
    jobs.run_all([jobs.Job('a', folder / 'a', lambda: Config({}), 'mIoU')], 1,
                 str)
"""


def test_sigterm_stops_what_was_started(tmp_path):
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    process = subprocess.Popen([sys.executable, '-c', SCRIPT, str(
        ROOT / 'tools'), str(tmp_path)], env=env)
    begun, until = tmp_path / 'begun', time.time() + 90
    while not (begun.exists() and begun.read_text()) and time.time() < until:
        time.sleep(.1)
    child = int(begun.read_text())
    process.terminate()
    assert process.wait(60)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert jobs.seconds_spent(tmp_path / 'a') > 0


def test_side_by_side(tmp_path, monkeypatch):
    """As many at once as asked for, and a result for each."""
    def run(job, threads, started):
        if job.name == 'b':
            raise jobs.RunError('of no use')
        return dict(metrics=dict(mIoU=1.))

    monkeypatch.setattr(jobs, 'run', run)
    found = [job(tmp_path / name) for name in 'abc']
    assert jobs.run_all(found, 2, lambda r: str(r['metrics'])) == {
        'b': 'of no use'}


def test_last_words(tmp_path):
    log = tmp_path / 'log'
    log.write_text('a\nerror: no data\nb\n')
    assert jobs.last_words(log) == 'error: no data'
    log.write_text('a\nb\n\n')
    assert jobs.last_words(log) == 'b'


def test_metrics_of_the_last_evaluation(tmp_path):
    path = tmp_path / '1/vis_data/scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('{"lr": 1, "loss": 2.0}\n{"mIoU": 5.0, "step": 1}\n'
                    '{"mIoU": 6.0, "step": 2}\n')
    assert jobs.read_metrics(tmp_path, 'mIoU')['mIoU'] == 6
    assert jobs.read_metrics(tmp_path, 'accuracy/top1') == {}
    assert jobs.read_metrics(tmp_path / '1', 'mIoU') == {}


def converter(tmp_path, line):
    """A config whose data come from a script of one line."""
    script = tmp_path / 'converter.py'
    script.write_text(f'import os, signal, sys, time\n{line}\n')
    return Config(dict(
        data_command=f'python {script} {tmp_path}/new --seed 1'))


def test_data_of_another_scale(ready, digits, tmp_path, capsys):
    data = tmp_path / 'large'
    link_data(digits, data / 'digits_photos', 6000)
    with pytest.raises(SystemExit):
        reproduce.main([*ready, '--data', str(data)])
    assert ('has 6000 training scenes, and this scale trains on 3000: give '
            'another --data') in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_data_of_a_start_of_another_scale(digits, tmp_path, monkeypatch,
                                          capsys):
    """Said before the starts ahead of it are trained."""
    monkeypatch.setattr(reproduce, 'make_data', None)
    link_data(digits, tmp_path / 'data/digits_photos_cluttered', 5)
    with pytest.raises(SystemExit):
        reproduce.main(['--table', 'seg', '--out', str(tmp_path / 'out'),
                        '--data', str(tmp_path / 'data')])
    assert 'cluttered has 5 training scenes' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('start', [False, True])
def test_a_config_that_cannot_be_read(start, ready, tmp_path, monkeypatch,
                                      capsys):
    folder = tmp_path / 'no_pruning'
    shutil.copytree(settings.NONE, folder)
    shutil.copytree(ROOT / 'configs/_base_', tmp_path / '_base_')
    task = settings.TASKS['seg']
    name = task.starts[-1] if start else task.fine_tuning
    with open(folder / name, 'a') as file:
        file.write('x = (\n')
    monkeypatch.setattr(settings, 'NONE', folder)
    monkeypatch.setattr(reproduce, 'make_data', None)
    with pytest.raises(SystemExit):
        reproduce.main(ready[:-2] if start else ready)
    said = capsys.readouterr()
    assert f'{name} cannot be used: SyntaxError' in said.err
    assert said.err.count('\n') == 1 and not said.out
    assert not (tmp_path / 'out').exists()


def test_data_are_drawn_on_all_cores(tmp_path, capsys):
    reproduce.make_data(converter(tmp_path, 'print(*sys.argv[1:])'))
    assert capsys.readouterr().out.splitlines()[-1] == (
        f'{tmp_path}/new --seed 1 --jobs {jobs.cores()}')


@pytest.mark.parametrize('line, message', [
    ('sys.exit("no room")', 'no room'),
    ('os.kill(os.getpid(), signal.SIGKILL)', 'it ended with -9')])
def test_data_that_cannot_be_drawn(tmp_path, line, message):
    with pytest.raises(ValueError, match=f'new.*: {message}'):
        reproduce.make_data(converter(tmp_path, line))


def test_drawing_stops_with_the_tool(tmp_path, monkeypatch):
    """By SIGTERM, which lets it take away what is not whole."""
    cfg = converter(tmp_path, (
        'signal.signal(signal.SIGTERM, lambda *a: sys.exit())\n'
        f'open("{tmp_path}/begun", "w")\n'
        f'try: time.sleep(60)\nfinally: open("{tmp_path}/tidy", "w")'))

    def stop(process):
        while not (tmp_path / 'begun').exists():
            time.sleep(.05)
        raise SystemExit(143)

    monkeypatch.setattr(reproduce.subprocess.Popen, 'communicate', stop)
    with pytest.raises(SystemExit):
        reproduce.make_data(cfg)
    assert (tmp_path / 'tidy').exists()


def test_log_of_a_run_that_was_killed_as_it_wrote(tmp_path):
    path = tmp_path / '1/vis_data/scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('{"mIoU": 5.0, "step": 1}\n{"mIoU": 6.')
    assert jobs.read_metrics(tmp_path, 'mIoU')['mIoU'] == 5
