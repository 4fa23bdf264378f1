# Copyright (c) mmcropr contributors.
from typing import Any, Dict, Optional

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcropr.registry import MODELS
from mmcropr.structures import TokenState

from .auxiliary_head import AuxiliaryHead


@MODELS.register_module()
class CroprMultiLabelHead(AuxiliaryHead):
    """Auxiliary head of one query per image: for detection and instance
    segmentation, as ``auxiliary_head`` of :class:`CroprDetector` (Token
    Cropr, CVPR 2025), and for segmentors (below).

    One query per module predicts which classes an image contains; the loss is
    the mean binary cross entropy over images and classes. Images without
    objects count, with all targets 0. Crowd and ignored boxes, which mmdet
    keeps apart from ``gt_instances``, and boxes without area do not. Stuff,
    which has no boxes, is in an image where its label map says so.

    MMSegmentation's segmentors can have it in the place of
    :class:`CroprSegHead`: not as published, but one query costs next to
    nothing where one per patch costs more than the ViT, and learns in fewer
    iterations. Their images contain the classes of their label maps.

    Args:
        in_channels: Channels D of the tokens.
        num_classes: Classes of the detector or segmentor.
        num_modules: Number of Cropr modules of the backbone.
        loss_weight: Weight of each module's loss.
        num_things: Of panoptic annotations in mmdet: classes from this number
            on are stuff. By default as the panoptic heads of the detector
            have it, or all classes.
        ignore_index: Label in label maps that counts nowhere.
        kwargs: See :class:`AuxiliaryHead`.

    Raises:
        ValueError: If ``num_things`` is not from 0 to ``num_classes``.
    """

    def __init__(self,
                 in_channels: int,
                 num_classes: int,
                 num_modules: int,
                 loss_weight: float = 1.,
                 num_things: Optional[int] = None,
                 ignore_index: int = 255,
                 **kwargs: Any) -> None:
        super().__init__(in_channels, num_classes, num_modules, **kwargs)
        num_things = num_classes if num_things is None else num_things
        if not 0 <= num_things <= num_classes:
            raise ValueError(f'num_things={num_things} must be from 0 to '
                             f'num_classes={num_classes}.')
        self.loss_weight, self.num_things = loss_weight, num_things
        self.ignore_index = ignore_index

    def check_backbone(self, backbone: Any) -> None:
        super().check_backbone(backbone)
        for reducer in self.learners(backbone):
            self._check_queries(reducer.num_queries)

    def targets(self, state: TokenState, batch_data_samples: list) -> Tensor:
        """Classes present in every image, (B, num_classes) of 0 and 1.

        Raises:
            ValueError: If there is more than one query, an object or a pixel
                has a label outside the classes, there is stuff and no label
                map, or neither objects nor a label map.
        """
        self._check_queries(self.records_of(state)[0].num_queries)
        device = state.x.device
        if not any(hasattr(s, 'gt_instances') for s in batch_data_samples):
            return self._in_maps(batch_data_samples, device)
        labels, images, there = [], [], []
        for number, sample in enumerate(batch_data_samples):
            instances = sample.gt_instances
            labels.append(instances.labels.to(device))
            images.append(torch.full_like(labels[-1], number))
            there.append(self._have_area(instances, labels[-1]))
        labels, images, there = map(torch.cat, (labels, images, there))
        outside = (labels < 0) | (labels >= self.num_classes)
        if outside.any():  # one look per batch: a GPU has to be waited for
            raise ValueError(self._outside(batch_data_samples))
        present = there.new_zeros(len(batch_data_samples), self.num_classes)
        present = present.index_put((images, labels), there, accumulate=True)
        if self.num_things < self.num_classes:
            present = present + self._stuff(batch_data_samples, device)
        return (present > 0).to(there.dtype)

    def _stuff(self, samples: list, device: torch.device) -> Tensor:
        """Stuff in the label map of every image, (B, num_classes) of 0 and
        1."""
        for sample in samples:
            if 'gt_sem_seg' not in sample:
                raise ValueError(
                    f'classes from {self.num_things} on are stuff, and '
                    f'{getattr(sample, "img_path", "an image")} comes without '
                    'a label map, gt_sem_seg: load it by dict(type='
                    "'LoadPanopticAnnotations'), or give the auxiliary head "
                    f'num_classes={self.num_things} for things alone.')
        found = self._in_maps(samples, device)
        found[:, :self.num_things] = 0
        return found

    def _in_maps(self, samples: list, device: torch.device) -> Tensor:
        """Classes in the label map of every image, (B, num_classes) of 0 and
        1."""
        count = self.num_classes
        found = torch.zeros(len(samples), count + 2, device=device)
        for row, sample in zip(found, samples):
            if 'gt_sem_seg' not in sample:
                raise ValueError(
                    'CroprMultiLabelHead learns from gt_instances or '
                    'gt_sem_seg, and '
                    f'{getattr(sample, "img_path", "an image")} has neither.')
            labels = self._labels(sample).to(device)
            ignored = labels == self.ignore_index
            labels = labels.where((labels >= 0) & (labels < count), count)
            # Not row[...] = 1: the number would be copied to the GPU
            row.index_fill_(0, labels.masked_fill(ignored, count + 1), 1)
        if found[:, count].any():  # one look per batch
            raise ValueError(self._wrong_maps(samples))
        return found[:, :count]

    @staticmethod
    def _labels(sample: Any) -> Tensor:
        """Of a label map of mmseg or mmdet, (H W, )."""
        maps = sample.gt_sem_seg
        return (maps.sem_seg if 'sem_seg' in maps else maps.data
                ).flatten().long()

    def _wrong_maps(self, samples: list) -> str:
        labels = torch.cat(list(map(self._labels, samples))).unique().tolist()
        labels = [label for label in labels if label != self.ignore_index
                  and not 0 <= label < self.num_classes]
        return (f'labels {labels} of label maps are not in 0 .. '
                f'{self.num_classes - 1}: the auxiliary head has '
                f'num_classes={self.num_classes}.')

    @staticmethod
    def _have_area(instances: Any, labels: Tensor) -> Tensor:
        """1 for every object with a box of some area, or no box, else 0."""
        boxes = getattr(instances, 'bboxes', None)
        boxes = getattr(boxes, 'tensor', boxes)
        if boxes is None or boxes.shape[-1] != 4:  # rotated ones have 5
            return torch.ones_like(labels, dtype=torch.float32)
        sides = boxes[:, 2:] - boxes[:, :2]
        return (sides > 0).all(1).to(labels.device, torch.float32)

    def _outside(self, samples: list) -> str:
        for sample in samples:
            labels = sample.gt_instances.labels
            if ((labels < 0) | (labels >= self.num_classes)).any():
                return (
                    f'labels {sorted(set(labels.tolist()))} of '
                    f'{getattr(sample, "img_path", "an image")} are not all '
                    f'in 0 .. {self.num_classes - 1}: the auxiliary head has '
                    f'num_classes={self.num_classes}.')
        return ''

    @staticmethod
    def _check_queries(queries: int) -> None:
        if queries != 1:
            raise ValueError(
                f'the reducer has num_queries={queries}; the multi-label head '
                "trains one query per module: set num_queries='image'.")

    def loss_by_logits(self, logits: Tensor,
                       targets: Tensor) -> Dict[str, Tensor]:
        loss = F.binary_cross_entropy_with_logits(
            logits[:, 0].float(), targets)
        return dict(loss_bce=self.loss_weight * loss)
