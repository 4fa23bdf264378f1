# Copyright (c) mmcropr contributors.
from typing import Any, Dict

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcropr.registry import MODELS
from mmcropr.structures import TokenState

from .auxiliary_head import AuxiliaryHead


@MODELS.register_module()
class CroprMultiLabelHead(AuxiliaryHead):
    """Auxiliary head for detection and instance segmentation, for the
    ``auxiliary_head`` of :class:`CroprDetector` (Token Cropr, CVPR 2025).

    One query per module predicts which classes an image contains; the loss is
    the mean binary cross entropy over images and classes. Images without
    objects count, with all targets 0. Crowd and ignored boxes, which mmdet
    keeps apart from ``gt_instances``, and boxes without area do not.

    Args:
        in_channels: Channels D of the tokens.
        num_classes: Classes of the detector.
        num_modules: Number of Cropr modules of the backbone.
        loss_weight: Weight of each module's loss.
        kwargs: See :class:`AuxiliaryHead`.
    """

    def __init__(self,
                 in_channels: int,
                 num_classes: int,
                 num_modules: int,
                 loss_weight: float = 1.,
                 **kwargs: Any) -> None:
        super().__init__(in_channels, num_classes, num_modules, **kwargs)
        self.loss_weight = loss_weight

    def check_backbone(self, backbone: Any) -> None:
        super().check_backbone(backbone)
        for reducer in self.learners(backbone):
            self._check_queries(reducer.num_queries)

    def targets(self, state: TokenState, batch_data_samples: list) -> Tensor:
        """Classes present in every image, (B, num_classes) of 0 and 1.

        Raises:
            ValueError: If there is more than one query, or an object has a
                label outside the classes.
        """
        self._check_queries(self.routes_of(state)[0].logits.shape[1])
        rows = [self._present(sample) for sample in batch_data_samples]
        return torch.stack(rows).to(state.x.device)

    def _present(self, sample: Any) -> Tensor:
        instances = sample.gt_instances
        labels = instances.labels
        if len(labels) and not 0 <= int(labels.min()) <= int(
                labels.max()) < self.num_classes:
            raise ValueError(
                f'labels {sorted(set(labels.tolist()))} of '
                f'{getattr(sample, "img_path", "an image")} are not all in 0 '
                f'.. {self.num_classes - 1}: the auxiliary head has '
                f'num_classes={self.num_classes}.')
        if 'bboxes' in instances:
            boxes = instances.bboxes
            boxes = getattr(boxes, 'tensor', boxes)
            if boxes.shape[-1] == 4:  # corners; rotated boxes have 5 numbers
                sides = boxes[:, 2:] - boxes[:, :2]
                labels = labels[(sides > 0).all(1)]
        present = torch.zeros(self.num_classes, device=labels.device)
        return present.index_fill(0, labels, 1.)

    @staticmethod
    def _check_queries(queries: int) -> None:
        if queries != 1:
            raise ValueError(
                f'the reducer has num_queries={queries}; the multi-label head '
                'of detection trains one query per module: set num_queries=1.')

    def loss_by_logits(self, logits: Tensor,
                       targets: Tensor) -> Dict[str, Tensor]:
        loss = F.binary_cross_entropy_with_logits(
            logits[:, 0].float(), targets)
        return dict(loss_bce=self.loss_weight * loss)
