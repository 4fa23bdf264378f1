# Copyright (c) mmcropr contributors.
from typing import List, Optional

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmcropr.models.backbones import CroprViT
from mmcropr.models.checks import backbones_of
from mmcropr.registry import HOOKS


@HOOKS.register_module()
class TokenLogHook(Hook):
    """Say how many tokens are left: behind every module in a table when
    training starts, and in every line of the log as ``tokens_left`` behind
    the last one, with ``pruning_progress``, the share of the full pruning
    rate. Both are of images of the backbone's ``img_size``. Without a
    CroprViT nothing happens.
    """

    priority = 'LOW'  # behind PruningCurriculumHook, which sets the rate

    def before_train(self, runner: Runner) -> None:
        for backbone in backbones_of(runner.model):
            runner.logger.info(self._table(backbone))

    @staticmethod
    def _table(backbone: CroprViT) -> str:
        if backbone.schedule is None:
            return 'No reducer: every block works on all tokens.'
        trunk = backbone.trunk
        height, width = trunk.grid

        def row(numbers: List[int]) -> str:
            return ' '.join(f'{number:>5d}' for number in numbers)

        return (f'Tokens left behind the modules '
                f'({trunk.num_prefix + height * width} at first, '
                f'{height} x {width} patches):\n'
                f'  behind block  {row(backbone.schedule.modules)}\n'
                f'  now           {row(backbone.lengths(training=True))}\n'
                f'  at full rate  {row(backbone.lengths(training=False))}')

    def before_train_iter(self,
                          runner: Runner,
                          batch_idx: int,
                          data_batch: Optional[dict] = None) -> None:
        backbone = next(iter(backbones_of(runner.model)), None)
        if backbone is None or backbone.schedule is None:
            return
        done, whole = backbone.progress
        # LoggerHook shows all that is under train/
        hub = runner.message_hub
        hub.update_scalar('train/pruning_progress', done / whole)
        hub.update_scalar('train/tokens_left',
                          backbone.lengths(training=True)[-1])
