# Copyright (c) mmcropr contributors.
from typing import Any

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.utils import resize
from torch import Tensor

from mmcropr.registry import MODELS
from mmcropr.structures import FeatureMaps


@MODELS.register_module()
class LinearHead(BaseDecodeHead):
    """Decode head of one linear layer per patch, upsampled bilinearly.

    Of an image that was padded to whole patches it cuts the padding off again
    after upsampling, so logits lie on the pixels they belong to.

    Args:
        in_channels: Channels D of the feature map.
        num_classes: Classes of the data set.
        kwargs: See mmseg's ``BaseDecodeHead``. Without dropout by default,
            and the loss averages over labelled pixels.
    """

    def __init__(self, in_channels: int, num_classes: int,
                 **kwargs: Any) -> None:
        kwargs.setdefault('channels', in_channels)
        kwargs.setdefault('dropout_ratio', 0.)
        kwargs.setdefault(
            'loss_decode',
            dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True))
        super().__init__(
            in_channels=in_channels, num_classes=num_classes, **kwargs)

    def forward(self, inputs: FeatureMaps) -> Tensor:
        """Feature maps -> logits (B, num_classes, H, W); of a backbone that
        is not ours, on the grid of its feature map."""
        logits = self.patch_logits(inputs)
        state = getattr(inputs, 'state', None)
        if state is None:
            return logits
        logits = resize(
            logits,
            size=state.image.shape[-2:],
            mode='bilinear',
            align_corners=self.align_corners)
        height, width = state.image_size
        return logits[..., :height, :width]

    def patch_logits(self, inputs: FeatureMaps) -> Tensor:
        """Feature maps -> logits (B, num_classes, h, w)."""
        return self.cls_seg(self._transform_inputs(inputs))
