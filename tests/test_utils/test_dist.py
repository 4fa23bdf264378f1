# Copyright (c) mmcropr contributors.
import os
import subprocess
import sys
import warnings

import pytest
import torch
from mmengine.config import Config

from mmcropr.utils import dist
from tests.utils import ROOT, free_port

ONE_PROCESS = '''
from pathlib import Path
from mmengine.config import Config
from mmcropr.utils.dist import leave_processes, use_cpu_processes
def threads():
    return len(list(Path('/proc/self/task').iterdir()))
print(threads())
def train():
    from torch import nn
    model = nn.parallel.DistributedDataParallel(nn.Linear(2, 2))
    model.itself = model
    print(threads())
cfg = Config(dict(launcher='pytorch'))
use_cpu_processes(cfg)
assert cfg.model_wrapper_cfg.device_ids is None
train()
leave_processes()
print(threads())
leave_processes()
'''


def test_nothing_is_left_of_the_process_group():
    env = dict(os.environ, RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1',
               MASTER_PORT=str(free_port()),
               CUDA_VISIBLE_DEVICES='')  # yapf: disable
    done = subprocess.run([sys.executable, '-c', ONE_PROCESS],
                          capture_output=True, text=True, cwd=ROOT, env=env)
    before, during, after = map(int, done.stdout.split())
    assert during > before == after, done.stderr
    assert done.returncode == 0, done.stderr
    assert '\n  NO GPU IN SIGHT' in done.stderr


@pytest.mark.parametrize('launcher, rank, gpu, warned', [
    ('pytorch', '0', False, True),
    ('pytorch', '1', False, False),
    ('pytorch', '0', True, False),
    ('none', '0', False, False),
])
def test_the_first_process_says_that_there_is_no_gpu(launcher, rank, gpu,
                                                     warned, monkeypatch):
    """A job that was meant for GPUs must not run on the CPU unnoticed."""
    backends = []
    monkeypatch.setenv('RANK', rank)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    monkeypatch.setattr(dist.distributed, 'init_process_group',
                        lambda backend: backends.append(backend))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        dist.use_cpu_processes(Config(dict(launcher=launcher)))
    texts = [str(w.message) for w in said]
    assert [text.count('\n') > 3 and 'NO GPU IN SIGHT' in text
            for text in texts] == [True] * warned
    assert backends == ['gloo'] * (launcher == 'pytorch' and not gpu)
