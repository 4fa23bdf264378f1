# Copyright (c) mmcropr contributors.
import torch
from torch import Tensor

from mmcropr.registry import MODELS
from mmcropr.structures import FeatureMaps

from .linear_head import LinearHead


@MODELS.register_module()
class DToPHead(LinearHead):
    """:class:`LinearHead` behind ``mmcropr.DToPNeck``: it classifies the kept
    patches, the neck's exits have classified the pruned ones. See there for
    the arguments."""

    def patch_logits(self, inputs: FeatureMaps) -> Tensor:
        """Map and logits of the exits -> logits (B, num_classes, h, w).

        Raises:
            ValueError: If they do not come from a ``DToPNeck`` of as many
                classes, with its token state.
        """
        if len(inputs) != 2 or inputs[1].shape[1] != self.out_channels:
            raise ValueError(
                'DToPHead reads the two maps of neck=dict(type='
                f"'mmcropr.DToPNeck', num_classes={self.out_channels}, ...), "
                f'got {[tuple(x.shape[1:]) for x in inputs]}.')
        state = getattr(inputs, 'state', None)
        if state is None:
            raise ValueError(
                'DToPHead needs the token state of DToPNeck, which says what '
                'was pruned; an exported encoder hands none over: export the '
                'whole model.')
        features, exits = inputs
        pruned = state.removal_map()[:, None] >= 0
        return torch.where(pruned, exits.to(features.dtype),
                           self.cls_seg(features))
