# Copyright (c) mmcropr contributors.
from typing import Optional

import torch
from mmengine.device import get_device
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mmcropr.registry import HOOKS


class NonFiniteLossError(FloatingPointError):
    """A loss is NaN or infinite."""


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stop training at the first loss that is NaN or infinite, in all
    processes and before a checkpoint is saved.

    Every iteration is looked at: mmengine's RuntimeInfoHook has read all
    losses by then, so the look adds no wait for the GPU (with several
    processes one number is reduced). Dynamic loss scaling may meet gradients
    that are not finite; the losses here are those before scaling.

    Raises:
        NonFiniteLossError: With the iteration and the names of the losses.
    """

    priority = 'NORMAL'  # behind RuntimeInfoHook, before CheckpointHook

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        losses = {
            name: value
            for name, value in (outputs or {}).items()
            if 'loss' in name and isinstance(value, Tensor)
        }
        # The sum is not finite if one of them is not
        total = losses.get('loss')
        bad = [] if total is not None and torch.isfinite(total) else [
            f'{name}={value.sum().item()}' for name, value in losses.items()
            if not torch.isfinite(value).all()
        ]
        found = bool(bad)
        if get_world_size() > 1:
            flag = torch.tensor(float(found), device=get_device())
            all_reduce(flag, op='max')
            found = bool(flag)
        if not found:
            return
        # The sum says nothing that its parts do not
        parts = [name for name in bad if not name.startswith('loss=')] or bad
        what = ', '.join(parts) or 'a loss of another process'
        raise NonFiniteLossError(
            f'not finite in iteration {runner.iter + 1} (epoch '
            f'{runner.epoch + 1}): {what}. Training stops here, and no '
            'checkpoint of this state is saved. A lower learning rate, a '
            'longer warm-up, optim_wrapper.clip_grad or training without '
            '--amp may help; so may a look at the data of this iteration.')
