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

    It also shows the model to metrics that look into it, those with a method
    ``watch(model)``, before each evaluation.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        check_model(runner.model)

    def before_val(self, runner: Runner) -> None:
        self._show(runner, runner.val_evaluator)

    def before_test(self, runner: Runner) -> None:
        self._show(runner, runner.test_evaluator)

    @staticmethod
    def _show(runner: Runner, evaluator: Any) -> None:
        for metric in getattr(evaluator, 'metrics', ()):
            if hasattr(metric, 'watch'):
                metric.watch(runner.model)
