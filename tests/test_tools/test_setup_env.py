# Copyright (c) mmcropr contributors.
"""What of the set-up can be tested without installing anything."""
import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from mmcropr.utils.versions import TIMM_FLOOR, version_tuple
from tests.utils import ROOT, load_tool

load_tool('setup_env.py')
sys.path.insert(0, str(ROOT / 'tools'))
from environment import install, steps, wheel  # noqa: E402

PYTHON = Path(sys.executable)
REQUIREMENT = 'onedl-mmcv==2.3.6'
CPU = wheel.Target('cp311', '2.12.1+cu130', '13.0', '', False, (), 'x86_64')
GPU = CPU._replace(gpus=True, archs=('8.0', '9.0'))


def make_wheel(path, *names):
    with zipfile.ZipFile(path, 'w') as archive:
        for name in names:
            archive.writestr(name, '')
    return path


@pytest.mark.parametrize('stack, pins', [
    ('default', ['torch==2.12.1', 'onedl-mmcv==2.3.6']),
    ('upstream', ['torch==2.1.2', 'mmcv==2.1.0', 'timm==1.0.20']),
])
def test_pins(stack, pins):
    found = install.read_pins(stack)
    assert set(pins) <= set(found.values())
    assert install.STACKS[stack]['mmcv'] in found
    assert all('==' in pin for pin in found.values())


def test_wheels_without_ops_do_not_count(tmp_path):
    good = make_wheel(tmp_path / 'a.whl', 'mmcv/_ext.cpython-311.so')
    assert wheel.has_ops(good)
    assert not wheel.has_ops(
        make_wheel(tmp_path / 'b.whl', 'mmcv/__init__.py'))
    (tmp_path / 'c.whl').write_text('half a download')
    assert not wheel.has_ops(tmp_path / 'c.whl')


def test_a_key_per_kind_of_machine():
    assert CPU.key(REQUIREMENT) == (
        'onedl-mmcv-2.3.6-cp311-torch2.12.1+cu130-cpu-x86_64')
    assert GPU.key(REQUIREMENT).endswith('-cuda13.0-sm8.0_9.0-x86_64')
    others = [GPU._replace(archs=('9.0', )), GPU._replace(cuda='12.6'), CPU,
              GPU._replace(hip='6.0')]  # yapf: disable
    assert len({t.key(REQUIREMENT) for t in [GPU, *others]}) == 5


def test_cached_wheel_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    folder = tmp_path / 'mmcropr/wheels' / CPU.key(REQUIREMENT)
    folder.mkdir(parents=True)
    make_wheel(folder / 'broken.whl', 'mmcv/__init__.py')
    cached = make_wheel(folder / 'mmcv.whl', 'mmcv/_ext.so')
    monkeypatch.setattr(wheel, 'build', None)  # it would be called
    assert wheel.get_mmcv(PYTHON, REQUIREMENT, CPU) == cached
    with pytest.raises(SystemExit, match='no nvcc was found|nvcc in'):
        wheel.get_mmcv(PYTHON, REQUIREMENT, GPU._replace(cuda='99.0'))


def test_target_of_this_machine(monkeypatch):
    monkeypatch.delenv('FORCE_CUDA', raising=False)
    target = wheel.find_target(PYTHON)
    assert target.tag == 'cp%d%d' % sys.version_info[:2]
    assert bool(target.archs) == target.gpus
    monkeypatch.setenv('FORCE_CUDA', '1')
    monkeypatch.setenv('TORCH_CUDA_ARCH_LIST', '9.0;8.0')
    assert wheel.find_target(PYTHON).archs == ('8.0', '9.0')
    if not target.gpus:
        monkeypatch.delenv('TORCH_CUDA_ARCH_LIST')
        with pytest.raises(SystemExit, match='FORCE_CUDA=1 without a GPU'):
            wheel.find_target(PYTHON)


@pytest.mark.parametrize('target, told, wanted', [
    (CPU, ['2.3.6', '', ''], True),
    (CPU, ['2.3.5', '', ''], False),
    (CPU, ['2.3.6', 'ImportError: libtorch', ''], False),
    (GPU, ['2.3.6', '', '13.0'], True),
    (GPU, ['2.3.6', '', ''], False),
    (GPU, ['2.3.6', 'no kernel image is available', ''], False),
    (GPU._replace(gpus=False), ['2.3.6', '', '13.0'], False),
])
def test_installed_ops_are_kept_if_they_work_here(target, told, wanted,
                                                  monkeypatch):
    monkeypatch.setattr(wheel, 'output', lambda cmd: json.dumps(told))
    assert wheel.is_installed(PYTHON, REQUIREMENT, target) is wanted


def test_installed_ops_are_tried_on_the_gpu(tmp_path):
    """... which a wheel for another GPU does not survive."""
    (tmp_path / 'check_env.py').write_text(
        'def load(name):\n    return "2.3.6", ""\n'
        'def check_ops():\n    return ""\n'
        'def check_ops_on_gpu():\n    return "no kernel image"\n'
        'def cuda_of_ops():\n    return "13.0"\n')
    text = wheel.output([PYTHON, '-c', wheel.INSTALLED, tmp_path])
    assert json.loads(text) == ['2.3.6', 'no kernel image', '']


@pytest.mark.parametrize('release, message', [
    ('12.6', 'is of CUDA 12.6, and torch .* needs CUDA 13.0'),
    ('13.1', None),
    (None, 'no nvcc was found'),
])
def test_nvcc(release, message, tmp_path, monkeypatch):
    if release:
        nvcc = tmp_path / 'bin/nvcc'
        nvcc.parent.mkdir()
        nvcc.write_text(f'#!/bin/sh\necho "tools, release {release}, V1"\n')
        nvcc.chmod(0o755)
    real = wheel.output
    monkeypatch.setattr(
        wheel, 'output', lambda cmd, **kwargs: str(tmp_path)
        if cmd[-1] == wheel.HOME else real(cmd, **kwargs))
    if message is None:
        wheel.check_nvcc(PYTHON, GPU)
        return
    with pytest.raises(SystemExit, match=message):
        wheel.check_nvcc(PYTHON, GPU)
    wheel.check_nvcc(PYTHON, CPU)  # needs none


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / 'thesis.tex').write_text('x')
    with pytest.raises(SystemExit, match='is no virtual environment'):
        install.make_venv(tmp_path, sys.executable, ('3.10', '3.11', '3.12'))
    assert (tmp_path / 'thesis.tex').read_text() == 'x'


def test_wrong_python():
    with pytest.raises(SystemExit, match='needs one of 2.7'):
        install.find_python(sys.executable, ('2.7', ))
    with pytest.raises(SystemExit, match='not runnable'):
        install.find_python('/nowhere/python', ('3.11', ))


def test_the_launcher_reads_in_old_pythons():
    """Nothing in it is newer than Python 2.7."""
    text = (ROOT / 'tools/setup_env.py').read_text()
    tree = ast.parse(text, feature_version=(3, 4))
    new = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Await)
    assert not [node for node in ast.walk(tree) if isinstance(node, new)]
    assert not [node for node in ast.walk(tree)
                if isinstance(node, ast.FunctionDef) and node.returns]


def test_failing_step_shows_its_end_and_can_be_repeated(capsys):
    code = 'print("the reason"); raise SystemExit(3)'
    with pytest.raises(SystemExit, match='exit code 3.*run the same command'):
        steps.run([sys.executable, '-c', code], 'test', steps.read_pip)
    assert 'the reason' in capsys.readouterr().err


def test_progress(capsys, monkeypatch):
    """Big downloads are named; silence is broken by a line of what goes
    on."""
    monkeypatch.setattr(steps, 'BEAT', 0.5)
    code = ('import time; print("  Downloading x/torch-2.whl (812.5 MB)", '
            'flush=True); print("  Downloading small.whl (12 kB)", '
            'flush=True); time.sleep(2)')
    steps.run([sys.executable, '-c', code], 'torch', steps.read_pip)
    out = capsys.readouterr().out
    assert '[setup] loading torch-2.whl (812.5 MB)' in out
    assert '... torch, ' in out and out.count('small.whl') == out.count('...')


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_interruption_is_one_line(number, tmp_path):
    """... and ends what was running."""
    script = tmp_path / 'run.py'
    script.write_text(
        'import sys\n'
        f'sys.path.insert(0, {str(ROOT / "tools")!r})\n'
        'from environment import install, steps\n'
        'install.install = lambda args: steps.run([sys.executable, "-c", '
        '"import os, time; print(os.getpid(), flush=True); time.sleep(60)"])\n'
        'sys.argv = ["setup_env.py"]\n'
        'install.main()\n')
    # A shell lets jobs in the background ignore SIGINT, and so all they start
    child = subprocess.Popen(
        [sys.executable, str(script)], text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL))  # yapf: disable
    inner = int(child.stdout.readline())
    child.send_signal(number)
    out, err = child.communicate(timeout=30)
    assert child.returncode == 128 + number and err == ''
    assert out.strip().splitlines() == [
        '[setup] interrupted: finished steps are kept, the same command goes '
        'on']
    for _ in range(50):
        if not os.path.exists(f'/proc/{inner}'):
            break
        time.sleep(0.1)
    assert not os.path.exists(f'/proc/{inner}')


def test_finished_set_up_does_nothing(tmp_path):
    stamp = install.stamp_text('default', install.read_pins('default'))
    (tmp_path / 'mmcropr-default.stamp').write_text(stamp)
    done = subprocess.run(
        [sys.executable, ROOT / 'tools/setup_env.py', '--venv', tmp_path],
        capture_output=True, text=True)  # yapf: disable
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
    assert len(list(tmp_path.iterdir())) == 1


def test_another_machine_is_looked_at_again(monkeypatch):
    pins = install.read_pins('default')
    stamp = install.stamp_text('default', pins)
    monkeypatch.setenv('FORCE_CUDA', '1')
    assert install.stamp_text('default', pins) != stamp


def test_requirements_of_the_package_name_no_host():
    """`pip install .` must not be able to replace torch or mm* packages."""
    lines = (ROOT / 'requirements/runtime.txt').read_text().splitlines()
    names = [line for line in lines if line and not line.startswith('#')]
    assert names == ['safetensors']
    assert (ROOT / 'requirements.txt').read_text().split() == [
        '-r', 'requirements/runtime.txt']


@pytest.mark.parametrize('stack', install.STACKS)
def test_pins_are_in_the_accepted_ranges(stack):
    """Those that requirements/mminstall.txt tells readers."""
    text = (ROOT / 'requirements/mminstall.txt').read_text()
    floors = dict(re.findall(r'^([\w-]+)>=([\d.]+)$', text, re.M))
    assert {'torch', 'timm', 'mmcv', 'mmengine'} < set(floors)
    pins = {name.replace('onedl-', '').replace('mmdetection', 'mmdet'):
            pin.split('==')[1] for name, pin in install.read_pins(
                stack).items()}
    for name, floor in floors.items():
        assert version_tuple(pins[name]) >= version_tuple(floor), name
        assert stack != 'upstream' or pins[name] == floor
    assert floors['timm'] == TIMM_FLOOR
