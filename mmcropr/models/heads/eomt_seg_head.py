# Copyright (c) mmcropr contributors.
from typing import Any, List, Tuple

import torch
from mmseg.models.decode_heads import Mask2FormerHead
from torch import Tensor

from mmcropr.registry import MODELS
from mmcropr.structures import TokenState

from .eomt_checks import check_size
from .eomt_head import EoMTHead


@MODELS.register_module()
class EoMTSegHead(EoMTHead, Mask2FormerHead):
    """:class:`EoMTHead` for semantic segmentation, for the ``decode_head`` of
    mmseg's segmentors. Every class of an image is one mask.

    Args:
        in_channels: Channels D of the tokens.
        num_classes: Classes of the data set.
        num_queries: Q.
        ignore_index: Label that is in no mask.
        kwargs: See :class:`EoMTHead`.
    """

    def __init__(self,
                 in_channels: int,
                 num_classes: int,
                 num_queries: int = 100,
                 ignore_index: int = 255,
                 **kwargs: Any) -> None:
        EoMTHead.__init__(self, in_channels, num_classes, 0, num_queries,
                          **kwargs)
        self.out_channels = num_classes
        self.align_corners = False
        self.ignore_index = ignore_index

    def _check_sample(self, sample: Any, size: Tuple[int, int]) -> None:
        check_size(
            tuple(sample.gt_sem_seg.data.shape[-2:]), size,
            getattr(sample, 'img_path', 'an image'))

    def predict(  # type: ignore[override]  # as mmseg's decode heads
            self, x: TokenState, batch_img_metas: List[dict],
            test_cfg: Any) -> Tensor:
        """Scores of the classes at every pixel, (B, C, H, W): the sum over
        the queries of class probability times mask probability."""
        classes, masks = self(x)
        masks = self.to_image(masks[-1], x).sigmoid()
        classes = classes[-1].softmax(-1)[..., :-1]
        return torch.einsum('bqc,bqhw->bchw', classes, masks)
