# Copyright (c) mmcropr contributors.
import inspect
from typing import Any, Dict, Optional, Union

from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from torch import nn

from mmcropr.registry import MODELS

from ..backbones import CroprViT
from ..necks import PoolNeck


@MODELS.register_module()
class CroprClassifier(ImageClassifier):
    """mmpretrain's ``ImageClassifier``, whose head takes the sizes that its
    config leaves out from the backbone: ``in_channels``, and where it has
    them ``num_modules`` and ``num_heads``. Else the two are the same, weights
    included; a size that is given and wrong is found by ``ModelCheckHook``
    and ``tools/train.py`` before training.

    Args:
        backbone: A :class:`CroprViT`, or its config.
        neck: A :class:`PoolNeck`, or its config; with another one nothing is
            known of the width it gives, and ``in_channels`` is left alone.
        head: A head of mmpretrain, or its config.
        kwargs: See ``ImageClassifier``.

    Raises:
        ValueError: If the backbone is another one.
    """

    def __init__(self,
                 backbone: Union[dict, nn.Module],
                 neck: Union[dict, nn.Module, None] = None,
                 head: Union[dict, nn.Module, None] = None,
                 **kwargs: Any) -> None:
        if not isinstance(backbone, nn.Module):
            backbone = MMPRETRAIN_MODELS.build(backbone)
        if not isinstance(backbone, CroprViT):
            raise ValueError(
                f'the backbone is {type(backbone).__name__}; CroprClassifier '
                "is for a mmcropr.CroprViT. Use type='ImageClassifier' for "
                'others.')
        if neck is not None and not isinstance(neck, nn.Module):
            neck = MMPRETRAIN_MODELS.build(neck)
        if head is not None and not isinstance(head, nn.Module):
            head = {**self._sizes(backbone, neck, head), **head}
        super().__init__(backbone, neck, head, **kwargs)

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
