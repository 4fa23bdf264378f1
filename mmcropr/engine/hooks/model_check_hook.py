# Copyright (c) mmcropr contributors.
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
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        check_model(runner.model)
