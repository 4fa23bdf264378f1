# Copyright (c) mmcropr contributors.
"""Fully sharded models of torch (FSDP2), in one process on the CPU."""
import os
import subprocess
import sys

import pytest
import torch

from mmcropr.utils.versions import version_tuple
from tests.utils import ROOT, free_port

SHARDED = '''
import copy
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from mmcropr.models import CroprViT
from tests.utils import REDUCERS, TINY
distributed.init_process_group('gloo')
mesh = init_device_mesh('cpu', (1, ))
for name in REDUCERS:
    torch.manual_seed(0)
    model = CroprViT(TINY, img_size=64, reducer=dict(
        type=f'mmcropr.{name}', keep=[12, 8], modules=[0, 1], align=1))
    twin = copy.deepcopy(model)
    for block in model.vit.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    image, results = torch.rand(2, 3, 64, 64), []
    for each in (model, twin):
        torch.manual_seed(1)
        results.append(each(image)[0])
        results[-1].square().mean().backward()
    torch.testing.assert_close(*results)
    for ours, theirs in zip(model.parameters(), twin.parameters()):
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad.full_tensor(), theirs.grad)
    print('equal:', name)
distributed.destroy_process_group()
'''


@pytest.mark.skipif(
    version_tuple(torch.__version__) < (2, 6),
    reason='fully_shard is not public before torch 2.6')
def test_every_reducer_sharded():
    """Reducers inside a block, too: FSDP has to see a call of the block."""
    from tests.utils import REDUCERS
    env = dict(os.environ, RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1',
               MASTER_PORT=str(free_port()), OMP_NUM_THREADS='1')
    done = subprocess.run([sys.executable, '-c', SHARDED],
                          capture_output=True, text=True, cwd=ROOT, env=env)
    found = [line.split()[1] for line in done.stdout.splitlines()
             if line.startswith('equal: ')]
    assert found == REDUCERS, done.stderr[-2000:]
