# Copyright (c) mmcropr contributors.
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmcropr.models.checks import check_model
from mmcropr.registry import HOOKS


@HOOKS.register_module()
class ModelCheckHook(Hook):
    """Check reducers, necks and heads against each other before training,
    where each knows only itself when it is built: see
    :func:`mmcropr.models.checks.check_model`. Without a CroprViT nothing
    happens.

    It also shows the model to metrics that look into it: before training, with
    the data of validation, to those with a method ``check(model, dataset)``,
    and before each evaluation to those with ``watch(model)``.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        check_model(runner.model)
        loop = runner.val_loop
        for metric in getattr(getattr(loop, 'evaluator', None), 'metrics', ()):
            if hasattr(metric, 'check'):
                metric.check(runner.model, loop.dataloader.dataset)

    def before_val(self, runner: Runner) -> None:
        self._show(runner, runner.val_evaluator)

    def before_test(self, runner: Runner) -> None:
        self._show(runner, runner.test_evaluator)

    @staticmethod
    def _show(runner: Runner, evaluator: Any) -> None:
        for metric in getattr(evaluator, 'metrics', ()):
            if hasattr(metric, 'watch'):
                metric.watch(runner.model)
