# Copyright (c) mmcropr contributors.
from typing import List, Optional, Sequence, Set, Tuple

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmcropr.models.backbones import CroprViT
from mmcropr.models.checks import backbones_of, unwrap
from mmcropr.models.work import encoder_work
from mmcropr.registry import HOOKS


@HOOKS.register_module()
class TokenLogHook(Hook):
    """Say how many tokens are left: behind every module in a table when
    training starts, and in every line of the log as ``tokens_left`` behind
    the last one, with ``pruning_progress``, the share of the full pruning
    rate. A second table has the work of every block and the speed-up that
    could be expected from it.

    The first time that a run has a rate, the share of the patches that stays
    behind each module goes to the backends of the runner's visualizer (files,
    TensorBoard, WandB) as ``tokens/kept_behind_block<i>``. All is of images
    of the backbone's ``img_size``. Without a CroprViT nothing happens.
    """

    priority = 'LOW'  # behind PruningCurriculumHook, which sets the rate

    def before_train(self, runner: Runner) -> None:
        for backbone in backbones_of(runner.model):
            runner.logger.info(self._table(backbone))
            if backbone.schedule is not None:
                model = unwrap(runner.model)
                model = getattr(model, 'detector', model)
                runner.logger.info(
                    self._work(backbone, getattr(model, 'neck', None)))
        self._shown: Set[Tuple[float, ...]] = set()

    @staticmethod
    def _table(backbone: CroprViT) -> str:
        if backbone.schedule is None:
            return 'No reducer: every block works on all tokens.'
        trunk = backbone.trunk
        height, width = trunk.grid

        def row(numbers: Sequence[int]) -> str:
            return ' '.join(f'{number:>5d}' for number in numbers)

        return (f'Tokens left behind the modules '
                f'({trunk.num_prefix + height * width} at first, '
                f'{height} x {width} patches):\n'
                f'  behind block  {row(backbone.schedule.modules)}\n'
                f'  now           {row(backbone.lengths(training=True))}\n'
                f'  at full rate  {row(backbone.lengths(training=False))}')

    @staticmethod
    def _work(backbone: CroprViT, neck: Optional[nn.Module]) -> str:
        work = encoder_work(backbone, neck)
        total, plain = (sum(macs) + work.embed
                        for macs in (work.macs, work.plain))
        width = max(len(f'{max(work.plain) / 1e9:.3f}'), 4) + 1

        def row(texts: List[str]) -> str:
            return ''.join(f'{text:>{width}}' for text in texts)

        return (
            'Work of the encoder on an image, at the full rate:\n'
            f'  block   {row([str(i) for i in range(len(work.tokens))])}\n'
            f'  tokens  {row([str(n) for n in work.tokens])}\n'
            f'  GMACs   {row([f"{n / 1e9:.3f}" for n in work.macs])}\n'
            f'  all: {total / 1e9:.2f} GMACs, without pruning '
            f'{plain / 1e9:.2f}; at most {work.ratio:.2f} times as fast')

    def _show_shares(self, runner: Runner, backbone: CroprViT) -> None:
        """Once per rate, so that files stay small."""
        trunk = backbone.trunk
        patches = trunk.grid[0] * trunk.grid[1]
        shares = tuple((length - trunk.num_prefix) / patches
                       for length in backbone.lengths(training=True))
        visualizer = getattr(runner, 'visualizer', None)
        if visualizer is None or shares in self._shown:
            return
        self._shown.add(shares)
        visualizer.add_scalars(
            {f'tokens/kept_behind_block{block}': share for block, share in zip(
                backbone.schedule.modules, shares)}, step=runner.iter + 1)

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
        self._show_shares(runner, backbone)
