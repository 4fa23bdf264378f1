# Copyright (c) mmcropr contributors.
from typing import Optional, Tuple

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from mmcropr.models.backbones import CroprViT
from mmcropr.models.heads import AuxiliaryHead
from mmcropr.models.necks import check_neck, check_pyramid
from mmcropr.registry import HOOKS


def curriculum(step: int, total: int, share: float = 0.5) -> Tuple[int, int]:
    """Share of the full pruning rate at a step of a run.

    The first ``int(total * share)`` steps go linearly from 0 to 1, both ends
    included, all later ones are at 1: for E epochs that is
    linspace(0, R, E / 2)[e], then R (Token Cropr).

    Returns:
        Numerator and denominator, so that the rate can be rounded exactly.
    """
    ramp = int(total * share)
    if step >= ramp:
        return 1, 1
    return (step, ramp - 1) if ramp > 1 else (0, 1)


def find_backbone(model: nn.Module) -> CroprViT:
    """The CroprViT of a model, also inside (nested) model wrappers.

    Raises:
        ValueError: If there is none, or more than one.
    """
    while is_model_wrapper(model):
        model = model.module
    found = [m for m in model.modules() if isinstance(m, CroprViT)]
    if len(found) != 1:
        raise ValueError(f'{type(model).__name__} has {len(found)} '
                         'mmcropr.CroprViT backbones where 1 is expected.')
    return found[0]


@HOOKS.register_module()
class PruningCurriculumHook(Hook):
    """Raise the pruning rate from 0 to its full value in the first part of
    training (Token Cropr). Evaluation is at the full rate always.

    The rate depends on the current epoch or iteration alone, so a resumed run
    goes on where it was. Before the run, reducers and auxiliary head are
    checked against each other. Without a reducer it does nothing.

    Args:
        share: Part of the run in which the rate rises, in [0, 1]; 0 trains at
            the full rate from the start.
        by_epoch: Whether the rate rises by epoch or by iteration; by default
            as the training loop counts.

    Raises:
        ValueError: If ``share`` is not in [0, 1].
    """

    priority = 'NORMAL'

    def __init__(self,
                 share: float = 0.5,
                 by_epoch: Optional[bool] = None) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f'share must be in [0, 1], got {share}')
        self.share, self.by_epoch = share, by_epoch

    def before_train(self, runner: Runner) -> None:
        if self.by_epoch and not isinstance(runner.train_loop,
                                            EpochBasedTrainLoop):
            raise ValueError(
                'by_epoch=True needs an EpochBasedTrainLoop; '
                f'{type(runner.train_loop).__name__} counts iterations. Leave '
                'by_epoch out.')
        backbone = find_backbone(runner.model)
        self._check_model(runner.model, backbone)

    @staticmethod
    def _check_model(model: nn.Module, backbone: CroprViT) -> None:
        """Raise a ValueError where parts of the model do not fit."""
        while is_model_wrapper(model):
            model = model.module
        if backbone.out_type == 'tokens':
            check_neck(getattr(model, 'neck', None))
        check_pyramid(model)
        heads = [m for m in model.modules() if isinstance(m, AuxiliaryHead)]
        learns = any(reducer.auxiliary for reducer in backbone.reducers)
        if learns and not heads:
            raise ValueError(
                f'{type(backbone.reducers[0]).__name__} learns its queries '
                'through an auxiliary head, and the model has none: add '
                "auxiliary_head=dict(type='mmcropr.CroprSegHead', "
                f'num_modules={backbone.num_modules}, ...) to a segmentor; '
                "wrap a detector in dict(type='mmcropr.CroprDetector', "
                "detector=..., auxiliary_head=dict(type="
                "'mmcropr.CroprMultiLabelHead', ...)); give a classifier "
                "head=dict(type='mmcropr.CroprClsHead', ...).")
        main = getattr(model, 'decode_head', getattr(model, 'head', None))
        wanted = getattr(main, 'num_classes', None)
        for head in heads:
            head.check_backbone(backbone)
            if wanted not in (None, head.num_classes):
                raise ValueError(
                    f'the auxiliary head has num_classes={head.num_classes}, '
                    f'the main head {wanted}.')

    def before_train_iter(self,
                          runner: Runner,
                          batch_idx: int,
                          data_batch: Optional[dict] = None) -> None:
        step, total = self._position(runner)
        find_backbone(runner.model).set_progress(
            curriculum(step, total, self.share))

    def _position(self, runner: Runner) -> Tuple[int, int]:
        by_epoch = self.by_epoch
        if by_epoch is None:
            by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if by_epoch:
            return runner.epoch, runner.max_epochs
        return runner.iter, runner.max_iters
