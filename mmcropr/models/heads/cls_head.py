# Copyright (c) mmcropr contributors.
from typing import Any, Dict, Optional

import torch
from mmpretrain.models.heads import LinearClsHead
from torch import Tensor, nn

from mmcropr.registry import MODELS
from mmcropr.structures import FeatureMaps, TokenState

from .auxiliary_head import AuxiliaryHead


class ClsAuxiliary(AuxiliaryHead):
    """Auxiliary predictions of an image's class, one query per module.

    Args:
        criterion: The main loss, as mmpretrain's heads call it.
        args: See :class:`AuxiliaryHead`.
        kwargs: See :class:`AuxiliaryHead`.
    """

    def __init__(self, criterion: nn.Module, *args: Any,
                 **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._criterion = (criterion, )  # the main head's, not a part of this

    def check_backbone(self, backbone: Any) -> None:
        super().check_backbone(backbone)
        for reducer in self.learners(backbone):
            if reducer.num_queries != 1:
                raise ValueError(
                    f'the reducer has num_queries={reducer.num_queries}; '
                    'classification trains one query per module: set '
                    'num_queries=1.')

    def targets(self, state: TokenState, batch_data_samples: list) -> Tensor:
        """Soft targets (B, num_classes) where a batch augmentation such as
        mixup made them, else labels (B, )."""
        if 'gt_score' in batch_data_samples[0]:
            return torch.stack([s.gt_score for s in batch_data_samples])
        return torch.cat([s.gt_label for s in batch_data_samples])

    def loss_by_logits(self, logits: Tensor, targets: Tensor) -> dict:
        return dict(loss=self._criterion[0](
            logits[:, 0], targets, avg_factor=len(logits)))


@MODELS.register_module()
class CroprClsHead(LinearClsHead):
    """Linear head of mmpretrain's ``ImageClassifier`` that in training also
    predicts from every Cropr module (Token Cropr, CVPR 2025).

    Auxiliary losses are the main loss on the main targets, label smoothing
    and mixup included, named ``aux.module<i>.loss``. Without
    ``auxiliary.*`` its weights are those of a ``LinearClsHead``.

    Args:
        num_classes: Classes of the data set.
        in_channels: Channels D of the tokens.
        num_modules: Number of Cropr modules of the backbone.
        mlp_ratio: Hidden width of the aggregators' MLP / D.
        num_heads: Of the aggregators, as the reducer has it.
        local: See :class:`AuxiliaryHead`.
        init_cfg: Of the main classifier; the auxiliary heads have their own.
        kwargs: See mmpretrain's ``LinearClsHead``.
    """

    def __init__(self,
                 num_classes: int,
                 in_channels: int,
                 num_modules: int,
                 mlp_ratio: float = 4.,
                 num_heads: Optional[int] = None,
                 local: Optional[bool] = None,
                 init_cfg: Optional[dict] = dict(
                     type='TruncNormal', std=.02, override=dict(name='fc')),
                 **kwargs: Any) -> None:
        super().__init__(num_classes, in_channels, init_cfg, **kwargs)
        self.auxiliary = ClsAuxiliary(
            self.loss_module, in_channels, num_classes, num_modules,
            mlp_ratio=mlp_ratio, num_heads=num_heads, local=local)

    @classmethod
    def sizes_of(cls, backbone: Any) -> Dict[str, Any]:
        """Arguments that follow from a CroprViT."""
        return ClsAuxiliary.sizes_of(backbone)

    def loss(self, feats: FeatureMaps, data_samples: list,
             **kwargs: Any) -> dict:
        """Loss of the classifier and of every module's prediction.

        Args:
            feats: From :class:`PoolNeck`, (B, D) with the token state.
            data_samples: ``DataSample`` of every image.
        """
        losses = super().loss(feats, data_samples, **kwargs)
        extra = self.auxiliary.loss(feats, data_samples)
        losses.update({f'aux.{key}': value for key, value in extra.items()})
        return losses
