# Copyright (c) mmcropr contributors.
import os
import sys
from types import SimpleNamespace

import pytest
import torch

from tests.utils import ROOT, load_tool, run_tool


def test_check_env():
    done = run_tool(sys.executable, 'tools/check_env.py', fresh=True)
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


def pretend_gpu(monkeypatch, error=None):
    """torch that sees a GPU; tensors on it are those of the CPU, or raise."""
    def cuda(self):
        if error:
            raise RuntimeError(error)
        return self

    tool = load_tool('check_env.py')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.Tensor, 'cuda', cuda)
    monkeypatch.setattr(tool, 'device', lambda: 'NVIDIA A100')
    return tool


def test_ops_without_cuda_are_broken_on_a_gpu_node(monkeypatch, capsys):
    """Made on a login node, used on a GPU node."""
    error = 'nms_impl: implementation for device cuda:0 not found.'
    tool = pretend_gpu(monkeypatch, error)
    monkeypatch.setattr(tool, 'cuda_of_ops', lambda: '')
    with pytest.raises(SystemExit) as end:
        tool.main()
    out = capsys.readouterr().out
    assert end.value.code == 1 and 'mmcv ops     BROKEN' in out
    assert 'has ops for the CPU only, and they do not work on the GPU' in out
    assert error in out and 'FORCE_CUDA=1 MMCV_WITH_OPS=1' in out


@pytest.mark.parametrize('cuda, kind', [
    ('13.0', 'for CUDA 13.0'), ('', 'for the CPU only')])
def test_check_env_says_what_ops_are_for(cuda, kind, monkeypatch, capsys):
    tool = pretend_gpu(monkeypatch)
    monkeypatch.setattr(tool, 'cuda_of_ops', lambda: cuda)
    with pytest.raises(SystemExit) as end:
        tool.main()
    assert end.value.code == 0
    assert f'load and work, {kind}\n' in capsys.readouterr().out


@pytest.mark.parametrize('status, cuda, unseen', [
    (0, None, True), (9, None, False), (0, '13.0', False)])
def test_a_gpu_that_torch_was_not_built_for(status, cuda, unseen, tmp_path,
                                            monkeypatch):
    smi = tmp_path / 'nvidia-smi'
    smi.write_text(f'#!/bin/sh\nexit {status}\n')
    smi.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}{os.pathsep}{os.environ["PATH"]}')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.version, 'cuda', cuda)
    assert load_tool('check_env.py').unseen_gpu() is unseen
