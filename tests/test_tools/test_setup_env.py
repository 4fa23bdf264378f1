# Copyright (c) mmcropr contributors.
"""What of the set-up can be tested without installing anything."""
import subprocess
import sys
import zipfile

import pytest

from tests.utils import ROOT, load_tool

tool = load_tool('setup_env.py')


def wheel(path, *names):
    with zipfile.ZipFile(path, 'w') as archive:
        for name in names:
            archive.writestr(name, '')
    return path


@pytest.mark.parametrize('stack, pins', [
    ('default', ['torch==2.12.1', 'onedl-mmcv==2.3.6']),
    ('upstream', ['torch==2.1.2', 'mmcv==2.1.0', 'timm==1.0.20']),
])
def test_pins(stack, pins):
    found = tool.read_pins(stack)
    assert set(pins) <= set(found.values())
    assert tool.STACKS[stack]['mmcv'] in found
    assert all('==' in pin for pin in found.values())


def test_wheels_without_ops_do_not_count(tmp_path):
    good = wheel(tmp_path / 'a.whl', 'mmcv/_ext.cpython-311.so')
    assert tool.has_ops(good)
    assert not tool.has_ops(wheel(tmp_path / 'b.whl', 'mmcv/__init__.py'))
    (tmp_path / 'c.whl').write_text('half a download')
    assert not tool.has_ops(tmp_path / 'c.whl')


def test_cached_wheel_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    key = tool.mmcv_cache_key(sys.executable, 'onedl-mmcv==2.3.6')
    assert key.startswith('onedl-mmcv-2.3.6-cp3') and 'torch' in key
    folder = tmp_path / 'mmcropr/wheels' / key
    folder.mkdir(parents=True)
    wheel(folder / 'broken.whl', 'mmcv/__init__.py')
    cached = wheel(folder / 'mmcv.whl', 'mmcv/_ext.so')
    monkeypatch.setattr(tool, 'pip', None)  # building would call it
    assert tool.build_mmcv(sys.executable, 'onedl-mmcv==2.3.6') == cached


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / 'thesis.tex').write_text('x')
    with pytest.raises(SystemExit, match='is no virtual environment'):
        tool.make_venv(tmp_path, sys.executable, ('3.10', '3.11', '3.12'))
    assert (tmp_path / 'thesis.tex').read_text() == 'x'


def test_wrong_python():
    with pytest.raises(SystemExit, match='needs one of 2.7'):
        tool.find_python(sys.executable, ('2.7', ))
    with pytest.raises(SystemExit, match='not runnable'):
        tool.find_python('/nowhere/python', ('3.11', ))


def test_failing_step_says_that_it_can_be_repeated():
    with pytest.raises(SystemExit, match='exit code 3.*run the same command'):
        tool.run([sys.executable, '-c', 'raise SystemExit(3)'])


def test_finished_set_up_does_nothing(tmp_path):
    stamp = tool.stamp_text('default', tool.read_pins('default'))
    (tmp_path / 'mmcropr-default.stamp').write_text(stamp)
    done = subprocess.run(
        [sys.executable, ROOT / 'tools/setup_env.py', '--venv', tmp_path],
        capture_output=True, text=True)  # yapf: disable
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
    assert len(list(tmp_path.iterdir())) == 1


def test_requirements_of_the_package_name_no_host():
    """`pip install .` must not be able to replace torch or mm* packages."""
    lines = (ROOT / 'requirements.txt').read_text().splitlines()
    names = [line for line in lines if line and not line.startswith('#')]
    assert names == ['safetensors']
