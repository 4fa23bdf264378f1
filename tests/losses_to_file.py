# Copyright (c) mmcropr contributors.
"""A hook for the tests of distributed training."""
import atexit
import json
from pathlib import Path

from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


def write_threads(file: Path) -> None:
    """Write the names of this process's threads (Linux)."""
    file.write_text(
        json.dumps([
            comm.read_text().strip()
            for comm in Path('/proc/self/task').glob('*/comm')
        ]))


@HOOKS.register_module(force=True)
class LossesToFile(Hook):
    """Writes every iteration's loss of this process to a file, and where there
    are several, at its end the threads it still has."""

    def __init__(self, out_dir: str) -> None:
        self.out_dir, self.losses = Path(out_dir), []

    def after_train_iter(self, runner, batch_idx, data_batch=None,
                         outputs=None) -> None:
        self.losses.append(outputs['loss'].item())

    def after_train(self, runner) -> None:
        file = self.out_dir / f'losses_{get_rank()}.json'
        file.write_text(json.dumps(self.losses))
        if get_world_size() > 1:
            atexit.register(write_threads,
                            self.out_dir / f'threads_{get_rank()}.json')
