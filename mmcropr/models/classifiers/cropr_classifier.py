# Copyright (c) mmcropr contributors.
import inspect
from typing import Any, Dict, Optional, Union

from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.models.heads import MultiLabelClsHead
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from torch import Tensor, nn

from mmcropr.registry import MODELS
from mmcropr.structures import FeatureMaps, TokenState

from ..backbones import CroprViT, cropr_vit_of
from ..heads import CroprLabelHead
from ..necks import PoolNeck


@MODELS.register_module()
class CroprClassifier(ImageClassifier):
    """mmpretrain's ``ImageClassifier``, whose head takes the sizes that its
    config leaves out from the backbone: ``in_channels``, and where it has
    them ``num_modules`` and ``num_heads``. Else the two are the same, weights
    included; a size that is given and wrong is found by ``ModelCheckHook``
    and ``tools/train.py`` before training.

    With an ``auxiliary_head`` it trains the reducers beside any head of
    mmpretrain: for several labels, tasks, with margins. Its losses are named
    ``aux.module<i>.loss``.

    Args:
        backbone: A :class:`CroprViT`, or its config, or a LoRA model of one.
        neck: A :class:`PoolNeck`, or its config; with another one nothing is
            known of the width it gives, and ``in_channels`` is left alone.
        head: A head of mmpretrain, or its config.
        auxiliary_head: An auxiliary head, or the config of one, such as
            ``dict(type='mmcropr.CroprLabelHead')``. Sizes that it leaves out
            are those of backbone and head, and so are its loss and whether
            images have several labels; of a ``MultiTaskHead`` those of its
            ``task``.
        kwargs: See ``ImageClassifier``.

    Raises:
        ValueError: If the backbone is another one.
    """

    def __init__(self,
                 backbone: Union[dict, nn.Module],
                 neck: Union[dict, nn.Module, None] = None,
                 head: Union[dict, nn.Module, None] = None,
                 auxiliary_head: Union[dict, nn.Module, None] = None,
                 **kwargs: Any) -> None:
        if not isinstance(backbone, nn.Module):
            backbone = MMPRETRAIN_MODELS.build(backbone)
        vit = cropr_vit_of(backbone)
        if vit is None:
            raise ValueError(
                f'the backbone is {type(backbone).__name__}; CroprClassifier '
                "is for a mmcropr.CroprViT. Use type='ImageClassifier' for "
                'others.')
        if neck is not None and not isinstance(neck, nn.Module):
            neck = MMPRETRAIN_MODELS.build(neck)
        classes = {}  # not every head remembers them
        if head is not None and not isinstance(head, nn.Module):
            if 'num_classes' in head:
                classes = dict(num_classes=head['num_classes'])
            head = {**self._sizes(vit, neck, head), **head}
        super().__init__(backbone, neck, head, **kwargs)
        if isinstance(auxiliary_head, dict):
            auxiliary_head = MODELS.build({
                **self._auxiliary_sizes(vit, auxiliary_head, classes),
                **auxiliary_head})
        self.auxiliary_head: Any = auxiliary_head

    def extract_feat(self, inputs: Tensor, stage: str = 'neck') -> Any:
        """Features of a stage, see ``ImageClassifier``; of the stage
        'backbone' the map before the last block, (B, D, h, w), with pruned
        patches as they left."""
        feats = super().extract_feat(inputs, stage=stage)
        if isinstance(feats, TokenState):
            feats = FeatureMaps([feats.to_map(feats.full())], feats)
        return feats

    def loss(self, inputs: Tensor, data_samples: list) -> Dict[str, Tensor]:
        """Losses of the head and of the auxiliary head."""
        feats = self.extract_feat(inputs)
        losses = self.head.loss(feats, data_samples)
        if self.auxiliary_head is not None:
            extra = self.auxiliary_head.loss(feats, data_samples)
            losses.update({f'aux.{key}': x for key, x in extra.items()})
        return losses

    def _auxiliary_sizes(self, vit: CroprViT, cfg: dict,
                         classes: Dict[str, int]) -> Dict[str, Any]:
        """Arguments of an auxiliary head that follow from backbone and
        head."""
        kind = cfg.get('type')
        kind = MODELS.get(kind) if isinstance(kind, str) else kind
        sizes = kind.sizes_of(vit) if hasattr(kind, 'sizes_of') else {}
        if not (isinstance(kind, type) and issubclass(kind, CroprLabelHead)):
            return sizes
        sizes.update(classes)
        head, heads = self.head, getattr(self.head, 'task_heads', None)
        if heads is not None:
            if cfg.get('task') not in heads:
                raise ValueError(
                    f'auxiliary_head has task={cfg.get("task")!r}, and the '
                    f'tasks of the head are {sorted(heads)}: set one of them.')
            head = heads[cfg['task']]
        for key, name in (('num_classes', 'num_classes'),
                          ('loss', 'loss_module')):
            if hasattr(head, name):
                sizes[key] = getattr(head, name)
        sizes['multi_label'] = isinstance(head, MultiLabelClsHead)
        return sizes

    @staticmethod
    def _sizes(backbone: CroprViT, neck: Optional[nn.Module],
               head: dict) -> Dict[str, Any]:
        """Arguments of a head that follow from backbone and neck."""
        kind = head.get('type')
        kind = MMPRETRAIN_MODELS.get(kind) if isinstance(kind, str) else kind
        if kind is None:  # the registry says what there is
            return {}
        if hasattr(kind, 'sizes_of'):
            sizes = kind.sizes_of(backbone)
        else:
            sizes = dict(in_channels=backbone.trunk.embed_dim)
        if not isinstance(neck, PoolNeck):
            sizes.pop('in_channels', None)
        takes = inspect.signature(kind).parameters
        if any(p.kind is p.VAR_KEYWORD and 'num_classes' not in takes
               for p in takes.values()):
            return sizes  # it hands its arguments on
        return {key: size for key, size in sizes.items() if key in takes}
