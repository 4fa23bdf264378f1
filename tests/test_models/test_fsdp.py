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
# Local losses read the reducers' and their own weights after the backbone ran
from mmengine.registry import MODELS, init_default_scope
from tests.test_models.test_vectors import samples
init_default_scope('mmseg')
for local in (True, False):
    torch.manual_seed(0)
    model = MODELS.build(dict(
        type='EncoderDecoder', train_cfg=dict(), test_cfg=dict(mode='whole'),
        backbone=dict(
            type='mmcropr.CroprViT', arch=TINY, img_size=64,
            out_type='tokens', reducer=dict(
                type='mmcropr.Cropr', rate=4, num_queries='patch')),
        neck=dict(type='mmcropr.LLFNeck'),
        decode_head=dict(
            type='mmcropr.LinearHead', in_channels=32, num_classes=5),
        auxiliary_head=dict(
            type='mmcropr.CroprSegHead', in_channels=32, num_classes=5,
            num_modules=2, local=local)))
    twin = copy.deepcopy(model)
    for block in model.backbone.vit.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    image, labels = torch.rand(2, 3, 64, 64), torch.randint(0, 5, (2, 64, 64))
    for each in (model, twin):
        losses = each(image, samples(labels), mode='loss')
        sum(v for k, v in losses.items() if 'loss' in k).backward()
    for (name, ours), theirs in zip(
            model.named_parameters(), twin.parameters()):
        torch.testing.assert_close(
            ours.grad.full_tensor(), theirs.grad, msg=name)
    print('equal:', f'local={local}')
distributed.destroy_process_group()
'''


@pytest.mark.skipif(
    version_tuple(torch.__version__) < (2, 6),
    reason='fully_shard is not public before torch 2.6')
def test_every_reducer_sharded():
    """Reducers inside a block, too: FSDP has to see a call of the block; and
    a segmentor with its auxiliary head."""
    from tests.utils import REDUCERS
    env = dict(os.environ, RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1',
               MASTER_PORT=str(free_port()), OMP_NUM_THREADS='1')
    done = subprocess.run([sys.executable, '-c', SHARDED],
                          capture_output=True, text=True, cwd=ROOT, env=env)
    found = [line.split()[1] for line in done.stdout.splitlines()
             if line.startswith('equal: ')]
    assert found == [*REDUCERS, 'local=True', 'local=False'], (
        done.stderr[-2000:])
