# Copyright (c) mmcropr contributors.
from typing import Any, Dict, List, Optional

import torch
from mmengine.device import get_device
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mmcropr.models.checks import unwrap
from mmcropr.registry import HOOKS


class NonFiniteLossError(FloatingPointError):
    """A loss or weight is NaN or infinite."""


ADVICE = ('Training stops here, and no checkpoint of this state is saved. A '
          'lower learning rate, a longer warm-up, optim_wrapper.clip_grad or '
          'training without --amp may help; so may a look at the data of this '
          'iteration.')


def _not_finite(values: Dict[str, Any]) -> List[str]:
    return [
        name for name, value in values.items()
        if not torch.isfinite(torch.as_tensor(value)).all()
    ]


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stop training at the first loss that is NaN or infinite, in all
    processes and before a checkpoint is saved.

    Every iteration is looked at, by one number: ``loss`` is the sum of all
    losses, and not finite if one of them is not. mmengine's RuntimeInfoHook
    has read it by then, so the GPU is not waited for once more (with several
    processes one number is reduced). Dynamic loss scaling may meet gradients
    that are not finite; the losses here are those before scaling.

    The last step before a checkpoint may break weights that gave finite
    losses, so parameters are looked at before they are saved, by the process
    that saves; launchers stop the others when it ends.

    Raises:
        NonFiniteLossError: With the iteration and the names of the losses or
            parameters.
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
            if 'loss' in name and isinstance(value, (Tensor, float))
        }
        total = {k: v for k, v in losses.items() if k == 'loss'} or losses
        broken = bool(_not_finite(total))
        if get_world_size() > 1:
            flag = torch.tensor(float(broken), device=get_device())
            all_reduce(flag, op='max')
            broken = bool(flag)
        if not broken:
            return
        bad = _not_finite(losses)
        # The sum says nothing that its parts do not
        parts = [name for name in bad if name != 'loss'] or bad
        what = ', '.join(f'{name}={torch.as_tensor(losses[name]).sum().item()}'
                         for name in parts)
        raise NonFiniteLossError(
            f'not finite in iteration {runner.iter + 1} (epoch '
            f'{runner.epoch + 1}): {what or "a loss of another process"}. '
            + ADVICE)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        learned = {name for name, _ in unwrap(runner.model).named_parameters()}
        bad = _not_finite({
            name: value
            for name, value in checkpoint['state_dict'].items()
            if name in learned
        })
        if bad:
            raise NonFiniteLossError(
                f'{len(bad)} of {len(learned)} parameters are not finite '
                f'after iteration {checkpoint["meta"]["iter"]}, though its '
                'losses are: '
                f'{", ".join(bad[:3])}{", ..." if bad[3:] else ""}. '
                + ADVICE)
