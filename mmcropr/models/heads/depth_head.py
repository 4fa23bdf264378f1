# Copyright (c) mmcropr contributors.
from typing import Any, Dict, NamedTuple, Optional, Sequence, Union

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcropr.registry import MODELS
from mmcropr.structures import TokenState

from .patch_head import PatchHead


class DepthTargets(NamedTuple):
    """Depth of every patch, (B', 1, h, w) in metres, 0 where nothing was
    measured, and which images have any, (B', ); None for all."""
    depth: Tensor
    images: Optional[Tensor]


@MODELS.register_module()
class CroprDepthHead(PatchHead):
    """Auxiliary head for depth estimation, for the ``auxiliary_head`` of
    MMSegmentation's ``DepthEstimator`` (Token Cropr, CVPR 2025, has other
    tasks; this one follows its segmentation).

    There is one query per patch of the training crop; each predicts the mean
    depth of its patch, ``max_depth * sigmoid(x)``. Pixels of depth 0, where
    nothing was measured, count nowhere, so a data preprocessor that pads
    needs ``seg_pad_val=0``.

    Args:
        in_channels: Channels D of the tokens.
        num_modules: Number of Cropr modules of the backbone.
        max_depth: The greatest depth, in metres, as the decode head has it.
        loss_decode: Loss of two depth maps, of mmseg's registry, or a list of
            losses, which are added.
        kwargs: See :class:`AuxiliaryHead`.

    Raises:
        ValueError: If ``max_depth`` is not above 0.
    """

    task = 'depth estimation'

    def __init__(self,
                 in_channels: int,
                 num_modules: int,
                 max_depth: float = 10.,
                 loss_decode: Union[dict, Sequence[dict]] = dict(
                     type='mmseg.SiLogLoss'),
                 **kwargs: Any) -> None:
        super().__init__(in_channels, 1, num_modules, loss_decode, **kwargs)
        if not max_depth > 0:
            raise ValueError(f'max_depth is a depth in metres above 0, got '
                             f'{max_depth}')
        self.num_classes = None  # it predicts no class
        self.max_depth = max_depth

    def targets(self, state: TokenState,
                batch_data_samples: list) -> DepthTargets:
        """Mean depth of every patch, of its pixels that have one.

        Raises:
            ValueError: If there is not one query per patch, or no depth map.
        """
        depth = self.padded(
            list(map(self._depth_map, batch_data_samples)), state, 0)
        there = (depth > 0).to(depth.dtype)
        total, count = (
            F.adaptive_avg_pool2d(x, state.grid) for x in (depth, there))
        mean = torch.where(count > 0, total / count, 0)
        # One look per batch: a GPU has to be waited for
        images = (mean > 0).flatten(1).any(1).nonzero()[:, 0]
        if len(images) == len(mean):
            return DepthTargets(mean, None)
        return DepthTargets(mean[images], images)

    @staticmethod
    def _depth_map(sample: Any) -> Tensor:
        """(1, H, W)."""
        if 'gt_depth_map' not in sample:
            raise ValueError(
                'CroprDepthHead learns from depth maps, and '
                f'{getattr(sample, "img_path", "an image")} comes without '
                "gt_depth_map: load it by dict(type='LoadDepthAnnotation'). "
                'For label maps use auxiliary_head='
                "dict(type='mmcropr.CroprSegHead').")
        return sample.gt_depth_map.data.float()

    def loss_by_logits(self, logits: Tensor,
                       targets: DepthTargets) -> Dict[str, Tensor]:
        """Losses of one name are added, as mmseg's heads do. Of an image
        where nothing was measured there is none."""
        depth = logits.float().sigmoid() * self.max_depth
        if targets.images is not None:
            depth = depth[targets.images]
        depth = depth.transpose(1, 2).reshape_as(targets.depth)
        losses: Dict[str, Tensor] = {}
        for loss in self.losses:
            value = loss(depth, targets.depth) if len(depth) else depth.sum()
            name = getattr(loss, 'loss_name', 'loss_depth')
            losses[name] = losses[name] + value if name in losses else value
        return losses
