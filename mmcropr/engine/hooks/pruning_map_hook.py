# Copyright (c) mmcropr contributors.
import logging
from collections import Counter
from pathlib import Path
from typing import Any, List, Optional, Sequence

import cv2
import mmcv
import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmengine.visualization import LocalVisBackend
from torch import Tensor, nn

from mmcropr.models.checks import backbones_of
from mmcropr.registry import HOOKS


def draw_pruning_map(image: np.ndarray, removed: np.ndarray,
                     num_modules: int) -> np.ndarray:
    """Three views side by side: the image, when every patch left, and the
    patches that stayed.

    Args:
        image: (H, W, 3), uint8, BGR.
        removed: Module at which every pixel's patch left, -1 where it stayed,
            (H, W), int.
        num_modules: Number of modules.

    Returns:
        (H, 3 * W, 3), uint8, BGR. In the middle dark patches left first and
        bright ones late; those that stayed show the image.
    """
    shade = (removed + 1) * (255 // max(num_modules, 1))
    colours = cv2.applyColorMap(shade.astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    stays = (removed < 0)[..., None]
    when = np.where(stays, image, colours)
    kept = np.where(stays, image, image // 5)
    return np.concatenate([image, when, kept], axis=1)


def as_picture(image: np.ndarray) -> np.ndarray:
    """An image (H, W, C) of any channels and numbers -> (H, W, 3), uint8: the
    first three, or the first alone; other numbers than uint8 by their
    range."""
    image = image[..., :3] if image.shape[-1] > 2 else image[..., :1]
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        image = ((image - low) * (255 / max(high - low, 1e-9))).astype('uint8')
    return np.broadcast_to(image, (*image.shape[:2], 3))


@HOOKS.register_module()
class PruningMapHook(Hook):
    """Draw which patches were pruned, and when, in validation and test.

    Pictures go to ``<out_dir>/<image name>.png`` (``<image name>-2.png`` where
    another image has the same name), and with the iteration to
    the backends of the runner's visualizer that show them, such as
    TensorBoard and WandB (not to its folder of files as well). Without a
    reducer, or a CroprViT at all, nothing is drawn, nor where the model sees
    an image in several windows or views.

    Args:
        num_images: Pictures per validation or test run.
        out_dir: Folder; ``pruning_maps`` in the run's work_dir by default.

    Raises:
        ValueError: If ``num_images`` is below 1.
    """

    priority = 'LOW'

    def __init__(self,
                 num_images: int = 8,
                 out_dir: Optional[str] = None) -> None:
        if num_images < 1:
            raise ValueError(f'num_images must be 1 or more, got {num_images}')
        self.num_images, self.out_dir = num_images, out_dir
        self._handles: List[Any] = []
        self._seen: Optional[nn.Module] = None

    def _start(self, runner: Runner) -> None:
        self._drawn = 0
        self._removed: List[np.ndarray] = []
        self._names: Counter = Counter()
        if is_main_process():  # of a student and its teacher one runs
            self._handles = [b.register_forward_hook(self._remember)
                             for b in backbones_of(runner.model)
                             if b.num_modules]

    def _remember(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._drawn >= self.num_images:
            return
        if self._removed and self._seen is not module:
            return  # of several backbones the first
        self._seen = module
        state = getattr(output, 'state', output)
        self._patch = module.trunk.patch_size
        self._num_modules = module.num_modules
        self._removed.append(state.removal_map().cpu().numpy())

    def _stop(self, runner: Runner) -> None:
        for handle in self._handles:
            handle.remove()
        if self._handles and self._drawn:
            print_log(f'{self._drawn} pruning maps in {self._folder(runner)}',
                      'current')
        self._handles = []

    def _folder(self, runner: Runner) -> Path:
        return Path(self.out_dir or Path(runner.work_dir) / 'pruning_maps')

    def _draw(self, runner: Runner, data_batch: dict,
              outputs: Sequence) -> None:
        if not self._handles or not self._removed:
            return
        removed, self._removed = self._removed, []
        images = data_batch['inputs']
        # Windows of a slide, views of test-time augmentation, and clips
        if len(removed) > 1 or not isinstance(images[0], Tensor) or (
                images[0].dim() != 3):
            return
        for image, grid, sample in zip(images, removed[0], outputs):
            if self._drawn >= self.num_images:
                return
            image = image.permute(1, 2, 0).contiguous().cpu().numpy()
            size = image.shape[:2]
            pixels = grid.repeat(self._patch[0], 0).repeat(self._patch[1], 1)
            picture = draw_pruning_map(
                as_picture(image), pixels[:size[0], :size[1]],
                self._num_modules)
            name = Path(getattr(sample, 'img_path', str(self._drawn))).stem
            self._names[name] += 1  # in folders of classes they come again
            if self._names[name] > 1:
                name = f'{name}-{self._names[name]}'
            file = self._folder(runner) / f'{name}.png'
            try:
                if not mmcv.imwrite(picture, str(file)):
                    raise OSError(f'{file} could not be written')
            except OSError as error:  # no picture is worth a training
                print_log(f'no further pruning maps: {error}', 'current',
                          logging.WARNING)
                self._stop(runner)
                return
            self._show(runner, name, picture)
            self._drawn += 1

    @staticmethod
    def _show(runner: Runner, name: str, picture: np.ndarray) -> None:
        """In the backends beside that of plain files; BGR in, RGB out."""
        for backend in runner.visualizer._vis_backends.values():
            if not isinstance(backend, LocalVisBackend):
                backend.add_image(
                    f'pruning_map/{name}',
                    np.ascontiguousarray(picture[..., ::-1]),
                    step=runner.iter)

    def before_val_epoch(self, runner: Runner) -> None:
        self._start(runner)

    def after_val_iter(self,
                       runner: Runner,
                       batch_idx: int,
                       data_batch: Optional[dict] = None,
                       outputs: Optional[Sequence] = None) -> None:
        self._draw(runner, data_batch, outputs)

    def after_val_epoch(self,
                        runner: Runner,
                        metrics: Optional[dict] = None) -> None:
        self._stop(runner)

    def before_test_epoch(self, runner: Runner) -> None:
        self._start(runner)

    def after_test_iter(self,
                        runner: Runner,
                        batch_idx: int,
                        data_batch: Optional[dict] = None,
                        outputs: Optional[Sequence] = None) -> None:
        self._draw(runner, data_batch, outputs)

    def after_test_epoch(self,
                         runner: Runner,
                         metrics: Optional[dict] = None) -> None:
        self._stop(runner)
