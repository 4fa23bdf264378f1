# Copyright (c) mmcropr contributors.
from typing import Any, List

from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler

from mmcropr.registry import PARAM_SCHEDULERS


def warm_up_poly(step: int, start: int, warm_up: int, total: int,
                 power: float) -> float:
    """Factor of the learning rate at a step: 0 up to ``start``, 1 after
    ``warm_up`` further steps, then a polynomial down to 0 at ``total``."""
    peak = start + warm_up
    if step < start:
        return 0.
    if step < peak:
        return (step - start) / warm_up
    return (1 - (step - peak) / (total - peak))**power


@PARAM_SCHEDULERS.register_module()
class TwoStagePolyLR(LRSchedulerMixin, _ParamScheduler):
    """Two-stage warm-up, then polynomial decay (EoMT, CVPR 2025).

    New parts warm up first, while the pretrained ViT rests; then the ViT
    does. mmengine's own schedulers treat all parameter groups alike; this one
    tells the groups apart that
    :class:`EoMTOptimWrapperConstructor` has marked.

    Args:
        optimizer: With ``pretrained=True`` in the groups of the ViT.
        warm_up_new: Steps in which the new parts warm up.
        warm_up_pretrained: Steps after these in which the ViT does.
        power: Exponent.
        kwargs: ``begin``, ``end`` (of the run by default) and so on, as of
            mmengine's schedulers; with ``by_epoch=False``.

    Raises:
        ValueError: If it is by epoch, both warm-ups together are as long as
            the run, or no group is marked.
    """

    def __init__(self,
                 optimizer: Any,
                 warm_up_new: int,
                 warm_up_pretrained: int,
                 power: float = 0.9,
                 **kwargs: Any) -> None:
        if kwargs.get('by_epoch', True):
            raise ValueError('TwoStagePolyLR counts iterations: set '
                             'by_epoch=False.')
        total = kwargs.get('end', 0) - kwargs.get('begin', 0)
        if min(warm_up_new, warm_up_pretrained
               ) < 0 or warm_up_new + warm_up_pretrained >= total:
            raise ValueError(
                f'warm_up_new={warm_up_new} and warm_up_pretrained='
                f'{warm_up_pretrained} must be 0 or more steps, and fewer '
                f'than the {total} of the schedule (begin, end).')
        if not any(g.get('pretrained') for g in optimizer.param_groups):
            raise ValueError(
                'no parameter group is marked as pretrained: use '
                "constructor='mmcropr.EoMTOptimWrapperConstructor' in "
                'optim_wrapper.')
        self.warm_up = (warm_up_new, warm_up_pretrained)
        self.total, self.power = total, power
        super().__init__(optimizer, **kwargs)

    def _get_value(self) -> List[float]:
        new, pretrained = self.warm_up
        factors = {
            False: warm_up_poly(self.last_step, 0, new, self.total,
                                self.power),
            True: warm_up_poly(self.last_step, new, pretrained, self.total,
                               self.power)
        }
        return [
            base * factors[bool(group.get('pretrained'))]
            for base, group in zip(self.base_values,
                                   self.optimizer.param_groups)
        ]
