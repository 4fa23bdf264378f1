# Copyright (c) mmcropr contributors.
import os
import subprocess
import sys

from tests.utils import ROOT, free_port

ONE_PROCESS = '''
from pathlib import Path
from mmengine.config import Config
from mmcropr.utils.dist import leave_processes, use_cpu_processes
cfg = Config(dict(launcher='pytorch'))
use_cpu_processes(cfg)
assert cfg.model_wrapper_cfg.device_ids is None
def threads():
    comms = Path('/proc/self/task').glob('*/comm')
    return [c.read_text().strip() for c in comms].count('pt_gloo_runloop')
def train():
    from torch import nn
    model = nn.parallel.DistributedDataParallel(nn.Linear(2, 2))
    model.itself = model
    print(threads() > 0)
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
    assert done.stdout.split() == ['True', '0'], done.stderr
    assert done.returncode == 0, done.stderr
