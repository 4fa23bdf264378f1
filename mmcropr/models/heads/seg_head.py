# Copyright (c) mmcropr contributors.
from functools import lru_cache
from typing import Any, Dict, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmcropr.registry import MODELS
from mmcropr.structures import Route, TokenState

from .patch_head import PatchHead
from .query_draws import QueryDraws


@lru_cache(maxsize=16)
def class_weights_on(weights: Tuple[float, ...],
                     device: torch.device) -> Tensor:
    """Copied once, not in every module and iteration."""
    return torch.tensor(weights, device=device)


@MODELS.register_module()
class CroprSegHead(PatchHead):
    """Auxiliary head for semantic segmentation, for the ``auxiliary_head`` of
    MMSegmentation's segmentors (Token Cropr, CVPR 2025).

    There is one query per patch of the training crop; each predicts the class
    of its patch. The label map is downsampled (nearest) to the grid, logits
    are not upsampled.

    Args:
        in_channels: Channels D of the tokens.
        num_classes: Classes of the data set.
        num_modules: Number of Cropr modules of the backbone.
        loss_decode: Loss per patch, of mmseg's registry, or a list of
            losses, which are added.
        ignore_index: Label that counts nowhere.
        query_share: Share of its queries that a module learns from in an
            iteration, drawn anew for each; scores use all of them. The loss
            is an unbiased estimate of that of all for a cross entropy; one
            that is no mean over patches, such as Dice's, it has of the drawn
            ones alone. Draws follow from torch's seed, the
            iteration and the rank, so a resumed run repeats them.
        kwargs: See :class:`AuxiliaryHead`.
    """

    def __init__(self,
                 in_channels: int,
                 num_classes: int,
                 num_modules: int,
                 loss_decode: Union[dict, Sequence[dict]] = dict(
                     type='mmseg.CrossEntropyLoss', avg_non_ignore=True),
                 ignore_index: int = 255,
                 query_share: float = 1.,
                 **kwargs: Any) -> None:
        super().__init__(in_channels, num_classes, num_modules, loss_decode,
                         **kwargs)
        if isinstance(query_share, bool) or not isinstance(
                query_share, (int, float)) or not 0 < query_share <= 1:
            raise ValueError('query_share is the share of the queries that a '
                             'module learns from, above 0 and up to 1; got '
                             f'{query_share!r}')
        self.ignore_index = ignore_index
        self.query_share = query_share
        self._draws = QueryDraws()
        # Loss -> targets, what it divides by: the same for all modules
        self._counted: Dict[nn.Module, Tuple[Tensor, Optional[Tensor]]] = {}

    def targets(self, state: TokenState, batch_data_samples: list) -> Tensor:
        """Class of every patch, (B, h, w).

        Raises:
            ValueError: If there is not one query per patch.
        """
        labels = self.padded(
            list(map(self._label_map, batch_data_samples)), state,
            self.ignore_index)
        return self._nearest(labels, state.grid).squeeze(1)

    @staticmethod
    def _label_map(sample: Any) -> Tensor:
        """(1, H, W), of a sample of mmseg or of mmdet."""
        if 'gt_sem_seg' not in sample:
            raise ValueError(
                'CroprSegHead learns from label maps, and '
                f'{getattr(sample, "img_path", "an image")} comes without '
                'gt_sem_seg. For depth maps use '
                "dict(type='mmcropr.CroprDepthHead'), for boxes and instance "
                "masks dict(type='mmcropr.CroprMultiLabelHead') and "
                'num_queries=1.')
        maps = sample.gt_sem_seg
        maps = maps.sem_seg if 'sem_seg' in maps else maps.data
        image = tuple(sample.metainfo.get('img_shape', ()))[:2]
        if any(a < b for a, b in zip(maps.shape[-2:], image)):
            raise ValueError(
                f'a label map of {tuple(maps.shape[-2:])} px belongs to an '
                f'image of {image} px, and patches are looked up in it: leave '
                'SegRescale out of the pipeline.')
        return maps

    @staticmethod
    def _nearest(labels: Tensor, grid: Tuple[int, int]) -> Tensor:
        labels = F.interpolate(labels.float(), size=grid, mode='nearest')
        return labels.long()

    def loss(self,
             inputs: Any,
             batch_data_samples: list,
             train_cfg: Any = None) -> Dict[str, Tensor]:
        if self.query_share < 1:
            self._draws.begin()
        try:
            return super().loss(inputs, batch_data_samples, train_cfg)
        finally:
            self._counted.clear()

    def module_loss(self, module: int, route: Route,
                    targets: Tensor) -> Dict[str, Tensor]:
        """Losses of one module by name, from the queries drawn for it."""
        total = route.num_queries
        count, rows = max(1, round(total * self.query_share)), None
        if count < total:
            rows = self._draws(module, total, count).to(
                targets.device, non_blocking=True)
        return self._losses(
            self.predict(module, route, rows), targets, rows)

    def loss_by_logits(self, logits: Tensor,
                       targets: Tensor) -> Dict[str, Tensor]:
        return self._losses(logits, targets)

    def _losses(self,
                logits: Tensor,
                targets: Tensor,
                rows: Optional[Tensor] = None) -> Dict[str, Tensor]:
        """Of the queries of some rows, or all. Losses of one name are added,
        as mmseg's heads do."""
        drawn, share = targets, None
        if rows is not None:
            drawn = targets.flatten(1).index_select(1, rows)[:, None]
            share = len(rows) / targets[0].numel()
        logits = logits.transpose(1, 2).unflatten(2, drawn.shape[1:])
        losses: Dict[str, Tensor] = {}
        for loss in self.losses:
            if self._counted.get(loss, (None, ))[0] is not targets:
                self._counted[loss] = targets, self._labelled(loss, targets)
            labelled = self._counted[loss][1]
            if labelled is not None and share is not None:
                # Not those among the drawn: a mean over these would be biased
                labelled = labelled * share
            value = loss(
                logits,
                drawn,
                avg_factor=labelled,
                ignore_index=self.ignore_index)
            if share is not None and getattr(loss, 'reduction', '') == 'sum':
                value = value / share
            name = getattr(loss, 'loss_name', 'loss_ce')
            losses[name] = losses[name] + value if name in losses else value
        return losses

    def _labelled(self, loss: nn.Module, targets: Tensor) -> Optional[Tensor]:
        """What a loss divides its sum by, where it would count for itself:
        labelled patches, or their classes' weights. It counts in numbers of
        Python's, for which a GPU has to be waited for in every module."""
        if getattr(loss, 'reduction', '') != 'mean':
            return None
        there = targets != self.ignore_index
        weights = getattr(loss, 'class_weight', None)
        if not isinstance(weights, (list, tuple)):
            if not getattr(loss, 'avg_non_ignore', False):
                return None
            # A sigmoid has a loss for every class
            sigmoid = getattr(loss, 'use_sigmoid', False)
            return there.sum() * (self.num_classes if sigmoid else 1)
        if getattr(loss, 'use_sigmoid', True) or len(
                weights) != self.num_classes:
            return None
        weights = class_weights_on(tuple(weights), targets.device)
        return (weights[torch.where(there, targets, 0)] * there).sum()
