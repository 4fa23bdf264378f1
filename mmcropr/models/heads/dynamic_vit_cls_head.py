# Copyright (c) mmcropr contributors.
from typing import Any

from mmpretrain.models.heads import LinearClsHead

from mmcropr.registry import MODELS
from mmcropr.structures import FeatureMaps

from .dynamic_vit_head import DynamicViTHead, class_loss


@MODELS.register_module()
class DynamicViTClsHead(LinearClsHead):
    """Linear head of mmpretrain's ``ImageClassifier`` with the losses of
    :class:`DynamicViTHead` and, with a teacher, ``aux.loss_class``: the KL
    divergence to the teacher's classes. Its weights are those of a
    ``LinearClsHead``.

    Args:
        num_classes: Classes of the data set.
        in_channels: Channels D of the tokens.
        class_weight: Weight of ``aux.loss_class``.
        auxiliary: Arguments of :class:`DynamicViTHead`, such as
            ``teacher_config`` and ``teacher_ckpt``.
        kwargs: See mmpretrain's ``LinearClsHead``.

    Raises:
        ValueError: If ``class_weight`` is negative.
    """

    def __init__(self,
                 num_classes: int,
                 in_channels: int,
                 class_weight: float = .5,
                 auxiliary: dict = dict(),
                 **kwargs: Any) -> None:
        super().__init__(num_classes, in_channels, **kwargs)
        if class_weight < 0:
            raise ValueError(f'class_weight must be 0 or more, got '
                             f'{class_weight}')
        self.class_weight = class_weight
        self.auxiliary = DynamicViTHead(**auxiliary)
        if self.auxiliary.teacher is not None:
            self.auxiliary.teacher.num_classes = num_classes

    def loss(self, feats: FeatureMaps, data_samples: list,
             **kwargs: Any) -> dict:
        """Loss of the classifier, of the decisions, and from the teacher.

        Args:
            feats: From :class:`PoolNeck`, (B, D) with the token state.
            data_samples: ``DataSample`` of every image.
        """
        score = self(feats)
        losses = self._get_loss(score, data_samples, **kwargs)
        extra, logits = self.auxiliary.losses(feats, classify=True)
        if logits is not None:
            extra['loss_class'] = self.class_weight * class_loss(score, logits)
        losses.update({f'aux.{key}': value for key, value in extra.items()})
        return losses
