# Copyright (c) mmcropr contributors.
import math
import random
from typing import Optional, Tuple

from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmcropr.models.checks import backbones_of, unwrap
from mmcropr.registry import HOOKS
from mmcropr.structures import Route

CURVES = ('linear', 'cosine')
LEVELS = 10  # of rates that vary, unless told otherwise


def curriculum(step: int,
               total: int,
               share: float = 0.5,
               begin: float = 0.,
               curve: str = 'linear') -> Tuple[int, int]:
    """Share of the full pruning rate at a step of a run.

    After ``int(total * begin)`` steps at 0 the rate rises for
    ``int(total * share)`` steps, and all later ones are at 1. With 'linear'
    both ends are among the rising steps: for E epochs that is
    linspace(0, R, E / 2)[e], then R (Token Cropr). With 'cosine' it is
    (1 - cos(pi t / T)) / 2 at step t of T (Liang et al., EViT, ICLR 2022).

    Returns:
        Numerator and denominator, so that the rate can be rounded exactly.
    """
    step, ramp = step - int(total * begin), int(total * share)
    if step >= ramp:
        return 1, 1
    if step <= 0 or ramp == 1:
        return 0, 1
    if curve == 'cosine':
        return round(5e5 * (1 - math.cos(math.pi * step / ramp))), 10**6
    return step, ramp - 1


def drawn(step: int, lowest: int, levels: int) -> Tuple[int, int]:
    """Share of the full rate that iteration ``step`` draws: one of
    ``lowest`` to ``levels`` steps of ``levels``.

    Returns:
        Numerator and denominator.
    """
    return random.Random(step).randint(lowest, levels), levels


@HOOKS.register_module()
class PruningCurriculumHook(Hook):
    """Raise the pruning rate from 0 to its full value in the first part of
    training (Token Cropr). Evaluation is at the full rate always.

    The rate depends on the current epoch or iteration alone, so a resumed run
    goes on where it was. Without a reducer it does nothing; reducers
    with weights that work only while they reduce (SiT, DynamicViT, ...) have
    the full rate from the start.

    Args:
        share: Part of the run in which the rate rises, in [0, 1]; 0 trains at
            the full rate from the start.
        by_epoch: Whether the rate rises by epoch or by iteration; by default
            as the training loop counts.
        begin: Part of the run, before it rises, without reduction.
        curve: 'linear', or 'cosine' for the ramp of EViT: the rates of a
            schedule by ``keep_rate`` are then EViT's at every step.
        levels: The rate rises in so many steps of equal height, at most, or
            varies among so many. Each rate is a shape of its own, which
            ``torch.compile`` compiles anew; with levels it does so a known
            number of times.
        vary_from: Once the rate has risen, each iteration draws it anew,
            among the tenths (or ``levels``) of the full rate from this part
            of it to all of it, each as often as the others, so that one model
            works at all of these rates (an idea of Super Vision Transformer,
            Lin et al., IJCV 2023). The draw depends on the iteration alone:
            it is the same in all processes and runs, and in a resumed run. By
            default the rate stays at its full value.

    Raises:
        ValueError: If ``share``, ``begin`` or their sum is not in [0, 1], or
            ``curve`` is neither, or ``levels`` is below 1, or ``vary_from``
            is not in [0, 1) or leaves one rate to draw; when training starts,
            if a reducer's rate cannot vary.
    """

    priority = 'NORMAL'

    def __init__(self,
                 share: float = 0.5,
                 by_epoch: Optional[bool] = None,
                 begin: float = 0.,
                 curve: str = 'linear',
                 levels: Optional[int] = None,
                 vary_from: Optional[float] = None) -> None:
        if vary_from is not None and not 0 <= vary_from < 1:
            raise ValueError('vary_from must be in [0, 1), a part of the '
                             f'full rate, got {vary_from}')
        if levels is not None and levels < 1:
            raise ValueError(f'levels must be 1 or more, got {levels}')
        if not 0 <= share <= 1:
            raise ValueError(f'share must be in [0, 1], got {share}')
        if begin < 0 or begin + share > 1 + 1e-9:
            raise ValueError('begin must be in [0, 1], and with share at most '
                             f'1, got begin={begin} and share={share}')
        if curve not in CURVES:
            raise ValueError(f'curve must be one of {", ".join(CURVES)}, got '
                             f'{curve!r}')
        self.share, self.by_epoch = share, by_epoch
        self.begin, self.curve, self.levels = begin, curve, levels
        self.lowest: Optional[int] = None
        if vary_from is not None:
            steps = levels or LEVELS
            self.lowest = math.ceil(vary_from * steps - 1e-9)
            if self.lowest == steps:
                raise ValueError(f'between vary_from={vary_from} and the full '
                                 f'rate is none of {steps} levels: give more '
                                 'levels, or leave vary_from out.')

    def before_train(self, runner: Runner) -> None:
        if self.by_epoch and not isinstance(runner.train_loop,
                                            EpochBasedTrainLoop):
            raise ValueError(
                'by_epoch=True needs an EpochBasedTrainLoop; '
                f'{type(runner.train_loop).__name__} counts iterations. Leave '
                'by_epoch out.')
        if sum(isinstance(hook, PruningCurriculumHook)
               for hook in runner.hooks) > 1:
            raise ValueError('two PruningCurriculumHooks would set the same '
                             'rate: leave one, in custom_hooks or in '
                             'default_hooks.')
        backbones = backbones_of(runner.model)
        if not backbones:
            raise ValueError(
                f'{type(unwrap(runner.model)).__name__} has no '
                'mmcropr.CroprViT whose rate could rise: remove '
                'PruningCurriculumHook.')
        stuck = {
            type(r).__name__: None
            for b in backbones if not b.follows_progress for r in b.reducers
            if list(r.parameters()) and r.record_type is not Route
        }
        if self.lowest is not None and stuck:
            raise ValueError(
                f'{", ".join(stuck)} has weights that learn only while it '
                'reduces, at the full rate: leave vary_from out.')
        if self.share + self.begin and stuck:
            runner.logger.info(
                f'{", ".join(stuck)} has weights that learn only while '
                'it reduces: full rate from the start.')
        self._set(runner)

    def _set(self, runner: Runner) -> None:
        step, total = self._position(runner)
        progress = curriculum(step, total, self.share, self.begin, self.curve)
        if self.lowest is not None and progress[0] == progress[1]:
            progress = drawn(runner.iter, self.lowest, self.levels or LEVELS)
        elif self.levels is not None:
            done, whole = progress
            progress = done * self.levels // whole, self.levels
        for backbone in backbones_of(runner.model):
            backbone.set_progress(progress)

    def before_train_iter(self,
                          runner: Runner,
                          batch_idx: int,
                          data_batch: Optional[dict] = None) -> None:
        self._set(runner)

    def _position(self, runner: Runner) -> Tuple[int, int]:
        by_epoch = self.by_epoch
        if by_epoch is None:
            by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if by_epoch:
            return runner.epoch, runner.max_epochs
        return runner.iter, runner.max_iters
