# Copyright (c) mmcropr contributors.
"""A loss that is not finite ends a run before it is saved."""
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmcropr.engine.hooks import FiniteLossHook, NonFiniteLossError
from tests.utils import tiny_digits_config


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_names_iteration_and_losses(bad):
    outputs = dict(
        loss=torch.tensor(bad),
        loss_good=torch.tensor(1.),
        acc=torch.tensor(float('nan')))
    outputs['decode.loss_ce'] = torch.tensor(bad, requires_grad=True)
    runner = SimpleNamespace(iter=6, epoch=1)
    with pytest.raises(NonFiniteLossError) as error:
        FiniteLossHook().after_train_iter(runner, 2, None, outputs)
    text = str(error.value)
    assert f'in iteration 7 (epoch 2): decode.loss_ce={bad}. ' in text


def test_the_sum_alone():
    with pytest.raises(NonFiniteLossError, match='loss=nan'):
        FiniteLossHook().after_train_iter(
            SimpleNamespace(iter=0, epoch=0), 0, None,
            dict(loss=torch.tensor(float('nan'))))


def test_finite_losses_and_other_values_pass():
    outputs = dict(loss=torch.ones(()), acc=torch.tensor(float('nan')))
    FiniteLossHook().after_train_iter(None, 0, None, outputs)
    FiniteLossHook().after_train_iter(None, 0, None, None)


class BreakLastStep(Hook):
    """NaN gradients in the last iteration, whose losses are finite."""

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter == runner.max_iters - 1:
            for parameter in runner.model.decode_head.parameters():
                parameter.register_hook(lambda grad: grad * float('nan'))


def test_weights_that_the_last_step_broke_are_not_saved(digits, tmp_path):
    cfg = tiny_digits_config(digits, tmp_path / 'run', train_cfg__max_epochs=1)
    cfg.optim_wrapper.pop('clip_grad', None)
    runner = Runner.from_cfg(cfg)
    runner.register_hook(BreakLastStep())
    with pytest.raises(NonFiniteLossError, match='2 of .* parameters are not '
                       'finite after iteration 4, .*conv_seg.weight'):
        runner.train()
    assert not list((tmp_path / 'run').glob('*.pth'))
