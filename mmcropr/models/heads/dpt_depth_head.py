# Copyright (c) mmcropr contributors.
from typing import Any, List, Union

from mmseg.models.decode_heads import DPTHead, VPDDepthHead
from torch import Tensor

from mmcropr.registry import MODELS


@MODELS.register_module()
class DPTDepthHead(DPTHead):
    """Depth from mmseg's ``DPTHead`` (Ranftl et al., Vision Transformers for
    Dense Prediction, ICCV 2021), which has classes only: depth is
    ``max_depth * sigmoid(x)`` and its loss that of mmseg's ``VPDDepthHead``.

    Args:
        max_depth: The greatest depth, in metres.
        loss_decode: Loss of two depth maps, or a list of losses.
        kwargs: See mmseg's ``DPTHead``; without dropout by default.
    """

    def __init__(self,
                 max_depth: float = 10.,
                 loss_decode: Union[dict, List[dict]] = dict(
                     type='mmseg.SiLogLoss'),
                 **kwargs: Any) -> None:
        kwargs.setdefault('dropout_ratio', 0.)
        # One channel is for mmseg a class with a threshold
        super().__init__(
            num_classes=1, threshold=.5, loss_decode=loss_decode, **kwargs)
        self.max_depth = max_depth

    def forward(self, inputs: Any) -> Tensor:
        """Pairs of map and token, see :class:`ReadoutNeck` -> depth
        (B, 1, 8 h, 8 w) in metres, h and w those of the maps."""
        return super().forward(inputs).sigmoid() * self.max_depth

    _stack_batch_gt = VPDDepthHead._stack_batch_gt
    loss_by_feat = VPDDepthHead.loss_by_feat
