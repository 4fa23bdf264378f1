# Copyright (c) mmcropr contributors.
"""Checkpoints whose pickle would run code, through every way in."""
import json
import os
import sys
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader, load_checkpoint
from safetensors.torch import save_file
from torch import nn

from mmcropr.models.backbones.pretrained import read_checkpoint
from mmcropr.utils.checkpoint import check_start
from mmcropr.utils.loading import (SAFE_PICKLE, UnsafeCheckpointError,
                                   load_file, load_safely)
from tests.utils import load_tool, run_tool, tiny_digits_config


class Touch:
    """Unpickles by making a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path, )


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    file = tmp_path / 'evil.pth'
    torch.save(
        dict(state_dict={'weight': torch.ones(1)},
             meta=Touch(tmp_path / 'made')), file)  # yapf: disable
    return file


@pytest.fixture
def readers() -> Any:
    schemes = dict(CheckpointLoader._schemes)
    yield
    CheckpointLoader._schemes = schemes


@pytest.mark.parametrize('zipped', [True, False])
def test_what_mmengine_saves_is_read(tmp_path, zipped):
    buffer = HistoryBuffer([1., 2.], [1, 1])
    content = dict(
        state_dict={'w': torch.ones(2).half(), 'p': nn.Parameter(
            torch.ones(2, 2))},
        message_hub=dict(log_scalars={'loss': buffer}, acc=np.float64(0.5)),
        meta=dict(epoch=1, palette=np.arange(3), size=torch.Size([1]),
                  dtype=torch.float32, seen={1, 2}))  # yapf: disable
    torch.save(content, tmp_path / 'x.pth',
               _use_new_zipfile_serialization=zipped)
    found = load_file(tmp_path / 'x.pth')
    assert found['state_dict']['w'].dtype == torch.float16
    assert found['message_hub']['log_scalars']['loss'].mean() == 1.5
    assert found['message_hub']['acc'] == 0.5
    assert found['meta']['seen'] == {1, 2}
    np.testing.assert_array_equal(found['meta']['palette'], np.arange(3))


def test_code_is_not_run(evil, tmp_path):
    with pytest.raises(UnsafeCheckpointError, match='mkdir.*--trust-check'):
        load_file(evil)
    assert not (tmp_path / 'made').exists()
    load_file(evil, trust=True)
    assert (tmp_path / 'made').is_dir()


def test_getattr_is_for_logs_alone(tmp_path):

    class Reach:

        def __reduce__(self) -> Any:
            return getattr, (HistoryBuffer, '__init__')

    torch.save(Reach(), tmp_path / 'x.pth')
    with pytest.raises(UnsafeCheckpointError, match='__init__'):
        load_file(tmp_path / 'x.pth')


def test_every_way_in(evil, tmp_path, readers):
    load_safely()
    model = nn.Linear(1, 1)
    for read in (lambda: load_checkpoint(model, str(evil)),
                 lambda: check_start(model, str(evil)),
                 lambda: read_checkpoint(evil),
                 lambda: load_tool('model_converters/eva02_det.py'
                                   ).read_source(str(evil), False)):
        with pytest.raises(ValueError, match='more than data'):
            read()
    assert not (tmp_path / 'made').exists()


@pytest.mark.parametrize('address', ['s3://a/x.pth', 'petrel://a/x.pth',
                                     'cluster:s3://a/x.pth'])
def test_stores(evil, tmp_path, readers, monkeypatch, address):
    """What mmengine's client fetches is read like any file."""
    asked = []

    @contextmanager
    def fetch(path, backend_args):
        asked.append((path, backend_args))
        yield evil

    monkeypatch.setattr('mmcropr.utils.loading.get_local_path', fetch)
    load_safely()
    with pytest.raises(UnsafeCheckpointError, match='more than data'):
        CheckpointLoader.load_checkpoint(address)
    assert not (tmp_path / 'made').exists()
    load_safely(trust=True)
    CheckpointLoader.load_checkpoint(address)
    assert (tmp_path / 'made').is_dir()
    assert asked == [(address, dict(backend='petrel'))] * 2


def test_a_store_that_cannot_be_read_safely(readers):
    load_safely()
    with pytest.raises(UnsafeCheckpointError, match='pavi://x .*download it'):
        CheckpointLoader.load_checkpoint('pavi://x')


@pytest.mark.parametrize('way', ['test', 'load_from', 'resume', 'init_cfg',
                                 'strip'])
def test_tools_do_not_run_code(evil, digits, tmp_path, way):
    cfg, file = tiny_digits_config(digits, tmp_path / 'run'), tmp_path / 'c.py'
    if way == 'load_from':
        cfg.load_from = str(evil)
    if way == 'init_cfg':
        cfg.model.init_cfg = dict(type='Pretrained', checkpoint=str(evil))
    cfg.dump(file)
    tool, *args = {
        'test': ['test.py', file, evil],
        'resume': ['train.py', file, '--resume', evil],
        'strip': ['model_converters/strip_auxiliary.py', file, evil,
                  tmp_path / 'out'],
    }.get(way, ['train.py', file])  # yapf: disable
    done = run_tool(sys.executable, f'tools/{tool}', *args)
    assert done.returncode in (1, 2)
    assert '--trust-checkpoint' in done.stderr.splitlines()[-1]
    assert 'Traceback' not in done.stderr
    assert not (tmp_path / 'made').exists()


def test_script_is_not_run(tmp_path):
    """torch.load runs TorchScript whatever unpickles the rest."""
    torch.jit.script(nn.Linear(1, 1)).save(tmp_path / 'x.pth')
    with pytest.raises(UnsafeCheckpointError, match='would use TorchScript'):
        load_file(tmp_path / 'x.pth')


@pytest.mark.parametrize('protocol', [2, 4])
def test_logs_of_any_protocol(tmp_path, protocol):
    torch.save(dict(log=HistoryBuffer([3.], [1])), tmp_path / 'x.pth',
               pickle_protocol=protocol)  # yapf: disable
    assert load_file(tmp_path / 'x.pth')['log'].max() == 3


@pytest.mark.parametrize('owner', ['argparse Namespace',
                                   'torch._utils _rebuild_tensor_v2'])
def test_classes_and_functions_stay_as_they_are(tmp_path, owner):
    module, name = owner.split()
    text = f'c{module}\n{name}\nN}}X\4\0\0\0mineI1\ns\x86b.'
    (tmp_path / 'x.pth').write_bytes(b'\x80\x02' + text.encode('latin1'))
    with open(tmp_path / 'x.pth', 'rb') as file:
        with pytest.raises(UnsafeCheckpointError, match=f'change of {name}'):
            SAFE_PICKLE.load(file)
    assert not hasattr(getattr(import_module(module), name), 'mine')


def test_config_that_mmengine_would_run(tmp_path):
    """``Runner.resume`` evaluates ``meta['config']``, whoever wrote it."""
    meta = dict(epoch=1, config='import os')
    torch.save(dict(state_dict={}, meta=meta), tmp_path / 'x.pth')
    assert load_file(tmp_path / 'x.pth')['meta'] == dict(epoch=1)
    assert load_file(tmp_path / 'x.pth', trust=True)['meta'] == meta
    save_file(dict(weight=torch.ones(1)), tmp_path / 'x.safetensors',
              dict(mmcropr=json.dumps(meta)))
    assert load_file(tmp_path / 'x.safetensors')['meta'] == dict(epoch=1)
