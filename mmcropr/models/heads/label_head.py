# Copyright (c) mmcropr contributors.
from typing import Any, NamedTuple, Optional, Union

import torch
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from mmpretrain.structures import label_to_onehot
from torch import Tensor, nn

from mmcropr.registry import MODELS
from mmcropr.structures import TokenState

from .auxiliary_head import AuxiliaryHead


class LabelTargets(NamedTuple):
    """Labels (B', ) or scores of classes (B', num_classes), and which images
    have any, (B', ); None for all."""
    labels: Tensor
    images: Optional[Tensor] = None


@MODELS.register_module()
class CroprLabelHead(AuxiliaryHead):
    """Auxiliary head for the labels of images, one or several each, with one
    query per module (Token Cropr, CVPR 2025): for the ``auxiliary_head`` of a
    :class:`CroprClassifier`, beside any head of mmpretrain.

    Args:
        in_channels: Channels D of the tokens.
        num_classes: Classes of the data set.
        num_modules: Number of Cropr modules of the backbone.
        loss: Loss of mmpretrain's registry, or a loss module, such as that
            of the main head, which stays a part of that head.
        multi_label: Whether targets are scores of 0 and 1 of every class,
            for losses with a sigmoid, or the one label of an image.
        task: Which labels of mmpretrain's ``MultiTaskDataSample`` count;
            images without them do not.
        kwargs: See :class:`AuxiliaryHead`.
    """

    def __init__(self,
                 in_channels: int,
                 num_classes: int,
                 num_modules: int,
                 loss: Union[dict, nn.Module] = dict(
                     type='mmpretrain.CrossEntropyLoss'),
                 multi_label: bool = False,
                 task: Optional[str] = None,
                 **kwargs: Any) -> None:
        super().__init__(in_channels, num_classes, num_modules, **kwargs)
        if not isinstance(loss, nn.Module):
            loss = self.loss_module = MMPRETRAIN_MODELS.build(loss)
        self._criterion = (loss, )  # not a part of this if it is another's
        self.multi_label, self.task = multi_label, task

    def check_backbone(self, backbone: Any) -> None:
        super().check_backbone(backbone)
        for reducer in self.learners(backbone):
            if reducer.num_queries != 1:
                raise ValueError(
                    f'the reducer has num_queries={reducer.num_queries}; '
                    'classification trains one query per module: set '
                    'num_queries=1.')

    def targets(self, state: TokenState,
                batch_data_samples: list) -> LabelTargets:
        """Soft targets where a batch augmentation such as mixup made them,
        else labels.

        Raises:
            ValueError: If an image has several labels, or none, and
                ``multi_label`` is not set.
        """
        images = None
        if self.task is not None:
            there = [i for i, s in enumerate(batch_data_samples)
                     if self.task in s]
            if len(there) < len(batch_data_samples):
                images = torch.tensor(
                    there, dtype=torch.long, device=state.x.device)
            batch_data_samples = [
                batch_data_samples[i].get(self.task) for i in there]
        return LabelTargets(self._labels(batch_data_samples, state), images)

    def _labels(self, samples: list, state: TokenState) -> Tensor:
        if not samples:
            return state.x.new_zeros(0)
        if 'gt_score' in samples[0]:
            return torch.stack([s.gt_score.float() for s in samples])
        labels = [s.gt_label for s in samples]
        if self.multi_label:
            return torch.stack([
                label_to_onehot(x, self.num_classes) for x in labels]).float()
        counts = sorted({len(x) for x in labels} - {1})
        if counts:
            raise ValueError(
                f'an image has {counts[-1]} labels: give the auxiliary head '
                'multi_label=True and a loss with a sigmoid, such as dict('
                "type='mmpretrain.CrossEntropyLoss', use_sigmoid=True).")
        return torch.cat(labels)

    def loss_by_logits(self, logits: Tensor, targets: LabelTargets) -> dict:
        logits = logits[:, 0]
        if targets.images is not None:
            logits = logits[targets.images]
        if not len(logits):
            return dict(loss=logits.sum())
        return dict(loss=self._criterion[0](
            logits, targets.labels, avg_factor=len(logits)))
