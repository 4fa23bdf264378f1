# Copyright (c) mmcropr contributors.
import sys
from types import SimpleNamespace

import pytest
import torch

from tests.utils import ROOT, load_tool, run_tool


def test_check_env():
    done = run_tool(sys.executable, 'tools/check_env.py')
    assert done.returncode == 0, done.stdout
    assert torch.__version__ in done.stdout
    assert 'mmcv ops     load and work' in done.stdout


def test_check_env_says_how_to_add_what_is_optional(tmp_path):
    (tmp_path / 'mmpretrain').mkdir()
    (tmp_path / 'mmpretrain/__init__.py').write_text(
        'raise ModuleNotFoundError("No module named \'mmpretrain\'")')
    done = run_tool(sys.executable, 'tools/check_env.py',
                    PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stdout
    words = done.stdout.split()
    wanted = words[words.index('add') + 2:][:3]
    upstream = load_tool('check_env.py').is_upstream()
    assert wanted == ['pip', 'install', 'mmpretrain==1.2.0' if upstream else
                      'onedl-mmpretrain==1.3.6']


@pytest.mark.parametrize('names, wanted', [
    (['mmengine', 'mmcv'], 'pip install mmdet==3.3.0'),
    (['onedl-mmengine'], 'pip install onedl-mmdetection==3.5.1'),
    ([], 'pip install onedl-mmdetection==3.5.1'),
])
def test_check_env_does_not_mix_the_stacks(monkeypatch, names, wanted):
    tool = load_tool('check_env.py')
    monkeypatch.setattr(
        tool.importlib.metadata, 'distributions',
        lambda: [SimpleNamespace(metadata=dict(Name=n)) for n in names])
    remedy = dict((p[0], p[3]) for p in tool.PACKAGES)['mmdet']
    assert tool.for_this_stack(remedy) == wanted
    for fork, upstream in tool.UPSTREAM.items():
        assert fork in (ROOT / 'requirements/default.txt').read_text()
        assert upstream in (ROOT / 'requirements/upstream.txt').read_text()


def test_check_env_tells_the_remedy(tmp_path):
    """An mmcv without its ops: the first wall that users meet."""
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv/__init__.py').write_text("__version__ = '2.3.6'")
    done = run_tool(sys.executable, 'tools/check_env.py',
                    PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert 'PROBLEM: mmcv 2.3.6 has no working compiled ops' in done.stdout
    assert 'MMCV_WITH_OPS=1 pip install' in done.stdout
