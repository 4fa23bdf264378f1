# Copyright (c) mmcropr contributors.
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub
from torch import nn

from mmcropr.engine.hooks import MaskAnnealingHook
from mmcropr.engine.hooks.mask_annealing_hook import annealed
from tests.utils import load_vectors


def head(num_blocks=3):
    module = nn.Module()
    module.num_blocks = num_blocks
    module.register_buffer('attn_mask_probs', torch.ones(num_blocks))
    return nn.Sequential(module)


def runner(model, iteration=0, max_iters=1000):
    return SimpleNamespace(
        model=model, iter=iteration, max_iters=max_iters,
        message_hub=MessageHub.get_instance('annealing'))  # yapf: disable


def test_against_the_vectors():
    cfg, vectors = load_vectors('eomt')
    bounds = cfg['annealing']
    hook = MaskAnnealingHook(bounds['attn_mask_annealing_start_steps'],
                             bounds['attn_mask_annealing_end_steps'])
    model = head()
    for step, wanted in zip(vectors['anneal.step'].tolist(),
                            vectors['anneal.prob']):
        hook.after_train_iter(runner(model, step - 1), 0)
        assert torch.allclose(model[0].attn_mask_probs, wanted, atol=1e-6)


def test_shares_of_the_run_and_resuming():
    model = head(1)
    hook = MaskAnnealingHook([.2], [.6], power=1.)
    hook.before_train(runner(model, 400))
    assert model[0].attn_mask_probs.tolist() == pytest.approx([.5])
    assert annealed(400, 200, 600, 1.) == .5


@pytest.mark.parametrize('start, end, message', [
    ([1, 2], [3], 'one number per block'),
    ([5], [3], 'ends before it starts'),
    ([-1], [3], 'whole numbers'),
    ([0.5], [1.5], 'shares of the run'),
])
def test_refuses(start, end, message):
    with pytest.raises(ValueError, match=message):
        MaskAnnealingHook(start, end)


def test_refuses_models():
    hook = MaskAnnealingHook([1, 2, 3], [4, 5, 6])
    with pytest.raises(ValueError, match='Linear has no mmcropr.EoMTHead'):
        hook.before_train(runner(nn.Linear(1, 1)))
    with pytest.raises(ValueError, match='for 3 blocks.*num_blocks=4'):
        hook.before_train(runner(head(4)))
