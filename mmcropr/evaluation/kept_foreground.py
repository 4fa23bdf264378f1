# Copyright (c) mmcropr contributors.
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import cv2
import mmcv
import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmcropr.models.backbones import CroprViT
from mmcropr.registry import METRICS
from mmcropr.structures import TokenState

ENOUGH = 0.1  # of a patch's pixels: then it is a patch of the foreground
IGNORED = 255


def patches_of_mask(mask: np.ndarray, shape: Tuple[int, int],
                    grid: Tuple[int, int],
                    patch: Tuple[int, int]) -> np.ndarray:
    """Which patches show foreground.

    Args:
        mask: Booleans of any size (H, W), that of the image file or of the
            model's input.
        shape: Height and width of the input before it was padded, px.
        grid: Patches per column and row (h, w).
        patch: Height and width of a patch, px.

    Returns:
        Booleans of the patches in raster order, (h * w, ).
    """
    whole = np.zeros((grid[0] * patch[0], grid[1] * patch[1]), np.float32)
    inside = cv2.resize(mask.astype(np.float32), shape[::-1],
                        interpolation=cv2.INTER_AREA)
    inside = inside[:whole.shape[0], :whole.shape[1]]
    whole[:inside.shape[0], :inside.shape[1]] = inside
    parts = whole.reshape(grid[0], patch[0], grid[1], patch[1])
    return (parts.mean((1, 3)) >= ENOUGH).ravel()


def count_kept(slots: np.ndarray, shows: np.ndarray) -> np.ndarray:
    """Foreground among what one module has kept.

    Args:
        slots: Which token every patch is in, -1 if it has left, (N, ).
        shows: Whether every patch shows foreground, (N, ).

    Returns:
        Foreground patches that are there, foreground patches, share of
        foreground patches in every token summed over the tokens, tokens,
        patches; (5, ).
    """
    stays = slots >= 0
    tokens, members = np.unique(slots[stays], return_inverse=True)
    sizes = np.bincount(members, minlength=len(tokens))
    hits = np.bincount(members, shows[stays], minlength=len(tokens))
    return np.array([(shows & stays).sum(), shows.sum(),
                     (hits / sizes.clip(1)).sum(), len(tokens), len(slots)],
                    np.float64)


@METRICS.register_module()
class KeptForeground(BaseMetric):
    """What of the foreground a token reduction keeps, in percent, for any
    data set with masks.

    A patch is of the foreground if a tenth of its pixels is. After each
    module: ``survive`` is the share of the foreground patches that are still
    there, ``precision`` that of the kept tokens which are foreground (of a
    merged token, that of its patches), ``kept`` the share of all patches that
    the tokens are; ``chance`` is the share of foreground in all patches, to
    which a selection by chance comes, as its ``survive`` does to ``kept``.
    Numbers without that of a module are of the last one.

    Masks come from ``gt_sem_seg`` (mmseg), the masks of ``gt_instances``
    (mmdet) or label maps in a folder (mmpretrain, or any other). The hook
    ``mmcropr.ModelCheckHook`` shows the model to this metric.

    Args:
        background: Labels of label maps that are no foreground; 255 is
            ignored in any case.
        seg_prefix: Folder of label maps, named as the images; None where the
            samples have masks.
        seg_suffix: Their ending.
        kwargs: As of every metric of mmengine.

    Raises:
        ValueError: Before training, if the model has no CroprViT, or the first
            sample no mask or a cropped image; in evaluation for every sample,
            and if the model sees an image in several windows or views.
    """

    default_prefix = 'kept_foreground'

    def __init__(self,
                 background: Sequence[int] = (0, ),
                 seg_prefix: Optional[str] = None,
                 seg_suffix: str = '.png',
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.none = (*background, IGNORED)
        self.seg_prefix, self.seg_suffix = seg_prefix, seg_suffix
        self._handles: List[Any] = []
        self._watched = False
        self._slots: List[Tensor] = []
        self._seen: List[Tuple[np.ndarray, Tuple[int, int],
                               Tuple[int, int]]] = []

    def check(self, model: nn.Module, dataset: Dataset) -> None:
        """Raise a ValueError if this metric goes not with a model, or with
        the first sample of the data of an evaluation; called before
        training."""
        self._backbone(model)
        sample = dataset[0]['data_samples'].to_dict()
        self._check_size(sample, self._shape(sample, self._mask(sample)))

    def watch(self, model: nn.Module) -> None:
        """Follow the patches of a model until :meth:`unwatch`; called before
        every evaluation."""
        self.unwatch()
        self.results.clear()
        backbone = self._backbone(model)
        self._watched = True
        self._handles = [
            backbone.register_forward_pre_hook(
                lambda *args: self._slots.clear()),
            backbone.register_forward_hook(self._finish)
        ] + [reducer.register_forward_hook(self._reduce)
             for reducer in backbone.reducers]  # yapf: disable

    def unwatch(self) -> None:
        """Let go of the model."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._watched = [], False
        self._slots.clear()
        self._seen.clear()

    def _reduce(self, module: nn.Module, args: Any, state: TokenState) -> None:
        self._slots.append(state.trace()[0])

    def _finish(self, module: CroprViT, args: Any, output: Any) -> None:
        state: TokenState = getattr(output, 'state', output)
        if self._slots:
            slots = torch.stack(self._slots, 1).cpu().numpy()
            self._seen.append((slots, state.grid, module.trunk.patch_size))

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        if not self._watched:
            raise ValueError(
                'KeptForeground has not seen the model: add model_check='
                "dict(type='mmcropr.ModelCheckHook') to default_hooks.")
        seen, self._seen = self._seen, []
        if not seen:  # no reducer
            return
        if len(seen) > 1 or len(seen[0][0]) != len(data_samples):
            raise ValueError(
                'KeptForeground follows patches of whole images, and the '
                'model sees them in several windows or views: take '
                "test_cfg=dict(mode='whole'), and no test-time augmentation.")
        slots, grid, patch = seen[0]
        for rows, sample in zip(slots, data_samples):
            mask = self._mask(sample)
            shape = self._shape(sample, mask)
            self._check_size(sample, shape)
            shows = patches_of_mask(mask, shape, grid, patch)
            self.results.append(
                np.stack([count_kept(row, shows) for row in rows]))

    @staticmethod
    def _backbone(model: nn.Module) -> CroprViT:
        found = [m for m in model.modules() if isinstance(m, CroprViT)]
        if len(found) != 1:
            raise ValueError(
                f'KeptForeground needs one mmcropr.CroprViT, and the model '
                f'has {len(found)}: take the metric out of the evaluator.')
        return found[0]

    @staticmethod
    def _shape(sample: dict, mask: np.ndarray) -> Tuple[int, int]:
        """Height and width of the model's input before it was padded."""
        height, width = sample.get('img_shape', mask.shape)[:2]
        return height, width

    @staticmethod
    def _check_size(sample: dict, shape: Tuple[int, ...]) -> None:
        """Raise a ValueError if the image was more than resized."""
        if 'scale_factor' not in sample or 'ori_shape' not in sample:
            return
        factors = np.broadcast_to(sample['scale_factor'], 2)[::-1]
        wanted = np.array(sample['ori_shape'][:2]) * factors
        if np.abs(wanted - shape).max() > 2:
            raise ValueError(
                f'KeptForeground follows whole images, and the pipeline has '
                f'made {shape} of {tuple(sample["ori_shape"][:2])} px by more '
                'than a change of size: leave crops out of the pipeline of '
                'evaluation.')

    def _mask(self, sample: dict) -> np.ndarray:
        """Foreground of a sample, (H, W) of booleans."""
        if self.seg_prefix is not None:
            path = Path(self.seg_prefix,
                        Path(sample['img_path']).stem + self.seg_suffix)
            labels = mmcv.imread(str(path), 'unchanged', backend='cv2') if (
                path.is_file()) else None
            if labels is None or labels.ndim != 2:
                raise ValueError(f'{path} is no label map (H, W).')
            return ~np.isin(labels, self.none)
        if 'gt_sem_seg' in sample:
            labels = sample['gt_sem_seg']['data']
            return ~np.isin(torch.as_tensor(labels).cpu().numpy()[0],
                            self.none)
        masks = sample.get('gt_instances', {}).get('masks')
        if masks is None:
            raise ValueError(
                'KeptForeground finds no mask in a sample with '
                f'{", ".join(sorted(sample))}: load gt_sem_seg or the masks '
                'of gt_instances in the pipeline of evaluation, or give '
                'seg_prefix, a folder of label maps.')
        return masks.to_ndarray().any(0) if len(masks) else np.zeros(
            (masks.height, masks.width), bool)

    def evaluate(self, size: int) -> dict:
        self.unwatch()  # in every process
        return super().evaluate(size)

    def compute_metrics(self, results: List[np.ndarray]) -> Dict[str, float]:
        """Of all images together: mean over patches, not over images."""
        if not results:
            return {}
        metrics: Dict[str, float] = {}
        for number, row in enumerate(np.sum(results, axis=0)):
            stays, shows, hits, tokens, patches = row.tolist()
            last = dict(
                survive=100 * stays / max(shows, 1),
                precision=100 * hits / max(tokens, 1),
                kept=100 * tokens / patches)
            metrics.update({
                f'{name}_{number}': value for name, value in last.items()})
        return dict(metrics, **last, chance=100 * shows / patches)
