# Copyright (c) mmcropr contributors.
import os
import subprocess
import sys

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
               MASTER_PORT=str(free_port()))  # yapf: disable
    done = subprocess.run([sys.executable, '-c', ONE_PROCESS],
                          capture_output=True, text=True, cwd=ROOT, env=env)
    before, during, after = map(int, done.stdout.split())
    assert during > before == after, done.stderr
    assert done.returncode == 0, done.stderr
