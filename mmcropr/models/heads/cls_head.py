# Copyright (c) mmcropr contributors.
from typing import Any, Dict, Optional

from mmpretrain.models.heads import LinearClsHead

from mmcropr.registry import MODELS
from mmcropr.structures import FeatureMaps

from .label_head import CroprLabelHead


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
        self.auxiliary = CroprLabelHead(
            in_channels, num_classes, num_modules, loss=self.loss_module,
            mlp_ratio=mlp_ratio, num_heads=num_heads, local=local)

    @classmethod
    def sizes_of(cls, backbone: Any) -> Dict[str, Any]:
        """Arguments that follow from a CroprViT."""
        return CroprLabelHead.sizes_of(backbone)

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
