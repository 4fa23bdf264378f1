# Copyright (c) mmcropr contributors.
"""``tools/gpu_check.sh`` as far as it goes without a GPU."""
import json
import sys
import time

import pytest

from tests.utils import load_tool, run_tool

check = load_tool('analysis_tools/gpu_check.py')
REPORT = '''<testsuites><testsuite><testcase name="a"/>
<testcase name="b"><failure message="1 != 2">where</failure></testcase>
<testcase name="c"><skipped message="no CUDA device"/></testcase>
<testcase name="d"><skipped message="no CUDA device"/></testcase>
</testsuite></testsuites>'''


def test_outcomes_of_tests(tmp_path):
    (tmp_path / 'tests.xml').write_text(REPORT)
    assert check.read_report(tmp_path / 'tests.xml') == dict(
        passed=1, failed=dict(b='1 != 2'), skipped={'no CUDA device': 2})


def test_tables_that_cannot_run(tmp_path):
    step = check.Step('det', [], 'no_such_host')
    assert check.run_step(step, 100, tmp_path) == dict(
        skipped='no_such_host is not installed')
    assert check.run_step(step._replace(host='torch'), 3, tmp_path) == dict(
        skipped='no time left')
    found = check.run_step(
        check.Step('seg', ['--table', 'seg', '--rounds', '0']), 100, tmp_path)
    assert '--rounds must be 1 or more' in found['error']


def test_a_command_ends_at_the_limit():
    start = time.monotonic()
    error = check.run_command(
        [sys.executable, '-c', 'import time; time.sleep(60)'], 0.5)
    assert 'time limit' in error and time.monotonic() - start < 30


@pytest.mark.parametrize('failed, status', [({}, None), (dict(b='no'), 1)])
def test_one_file(monkeypatch, tmp_path, capsys, failed, status):
    monkeypatch.setattr(check, 'run_tests', lambda *args: dict(
        passed=1, failed=failed, skipped={}))
    out = tmp_path / 'check.json'
    before = []  # what is there when a step begins

    def run_step(step, seconds, folder):
        before.append(list(json.loads(out.read_text())['tables']))
        return dict(results=[seconds])

    monkeypatch.setattr(check, 'run_step', run_step)
    monkeypatch.setattr(sys, 'argv', ['gpu_check.py', str(out), '--minutes',
                                      '2'])
    if status:
        with pytest.raises(SystemExit):
            check.main()
    else:
        check.main()
    found = json.loads(out.read_text())
    assert found['hardware'] and found['tests']['failed'] == failed
    assert before == [[], ['seg']]
    assert 100 < found['tables']['seg']['results'][0] < 115
    assert 'seg: ok' in capsys.readouterr().out


def test_the_command():
    done = run_tool('tools/gpu_check.sh', '--minutes', '0',
                    PYTHON=sys.executable)
    assert '--minutes must be above 0' in done.stderr


def test_steps_leave_the_others(monkeypatch, tmp_path):
    out = tmp_path / 'check.json'
    out.write_text(json.dumps(dict(
        tests=dict(passed=7), tables=dict(seg={}, det={}))))
    monkeypatch.setattr(
        check, 'run_step',
        lambda step, seconds, folder: dict(name=step.name))
    monkeypatch.setattr(sys, 'argv', ['gpu_check.py', str(out), '--steps',
                                      'seg'])
    check.main()
    found = json.loads(out.read_text())
    assert found['tests'] == dict(passed=7)
    assert found['tables'] == dict(seg=dict(name='seg'), det={})
