# Copyright (c) mmcropr contributors.
from typing import List, Optional, Sequence

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmcropr.models.checks import unwrap
from mmcropr.registry import HOOKS


def annealed(step: int, start: int, end: int, power: float = 0.9) -> float:
    """Probability of masked attention after ``step`` iterations (EoMT):
    1 up to ``start``, 0 from ``end`` on, in between
    (1 - (step - start) / (end - start)) ** power."""
    if step < start:
        return 1.
    if step >= end:
        return 0.
    return (1 - (step - start) / (end - start))**power


@HOOKS.register_module()
class MaskAnnealingHook(Hook):
    """Take the masked attention of an :class:`EoMTHead` away, block by block
    (Kerssies et al., CVPR 2025), so that inference needs no masks.

    The probability of a block depends on the number of iterations done alone.
    It is set before the first and after each, so the checkpoint that follows
    holds it, a resumed run goes on where it was, and all processes agree.

    Args:
        start: Iteration at which a block begins to lose its masks, for each
            of the last blocks; or a share of the run, a float in [0, 1].
        end: The same, at which it has none left.
        power: Exponent.

    Raises:
        ValueError: If the two differ in length, or a block ends before it
            starts.
    """

    priority = 'NORMAL'

    def __init__(self,
                 start: Sequence[float],
                 end: Sequence[float],
                 power: float = 0.9) -> None:
        if len(start) != len(end) or any(
                a > b for a, b in zip(start, end) if type(a) is type(b)):
            raise ValueError(
                'start and end have one number per block, and none ends '
                f'before it starts; got start={list(start)}, end={list(end)}')
        for value in (*start, *end):
            if value < 0 or isinstance(value, float) and value > 1:
                raise ValueError('iterations are whole numbers, or shares of '
                                 f'the run in [0., 1.], got {value!r}')
        self.start, self.end, self.power = start, end, power
        self._probs: Optional[List[float]] = None

    def before_train(self, runner: Runner) -> None:
        heads = self._heads(runner.model)
        if not heads:
            raise ValueError(
                f'{type(unwrap(runner.model)).__name__} has no '
                'mmcropr.EoMTHead whose masks could go: remove '
                'MaskAnnealingHook.')
        for head in heads:
            if head.num_blocks != len(self.start):
                raise ValueError(
                    f'MaskAnnealingHook has steps for {len(self.start)} '
                    f'blocks, {type(head).__name__} has num_blocks='
                    f'{head.num_blocks}.')
        self._probs = None
        self._set(runner, runner.iter)

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        self._set(runner, runner.iter + 1)

    @staticmethod
    def _heads(model: nn.Module) -> List[nn.Module]:
        return [m for m in model.modules() if hasattr(m, 'attn_mask_probs')]

    def _set(self, runner: Runner, step: int) -> None:
        total = runner.max_iters
        bounds = [[
            round(total * value) if isinstance(value, float) else value
            for value in given
        ] for given in (self.start, self.end)]
        probs = [annealed(step, a, b, self.power) for a, b in zip(*bounds)]
        for head in self._heads(runner.model):
            if probs != self._probs:  # else nobody has to read them again
                head.attn_mask_probs.copy_(torch.tensor(probs))
        self._probs = probs
        for number, prob in enumerate(probs):
            runner.message_hub.update_scalar(f'train/mask_prob_{number}',
                                             prob)
