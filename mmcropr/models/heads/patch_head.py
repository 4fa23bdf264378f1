# Copyright (c) mmcropr contributors.
from typing import Any, List, Sequence, Tuple, Union

import torch
from mmseg.registry import MODELS as MMSEG_MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from mmcropr.structures import TokenState

from .auxiliary_head import AuxiliaryHead


class PatchHead(AuxiliaryHead):
    """Auxiliary head of a dense task: one query per patch of the training
    crop, each of which predicts its patch.

    Args:
        in_channels: Channels D of the tokens.
        num_classes: Numbers that a query predicts.
        num_modules: Number of Cropr modules of the backbone.
        loss_decode: Loss of mmseg's registry, or a list of losses, which are
            added.
        kwargs: See :class:`AuxiliaryHead`.
    """

    task = 'segmentation'

    def __init__(self, in_channels: int, num_classes: int, num_modules: int,
                 loss_decode: Union[dict, Sequence[dict]],
                 **kwargs: Any) -> None:
        super().__init__(in_channels, num_classes, num_modules, **kwargs)
        several = isinstance(loss_decode, (list, tuple))
        losses = [MMSEG_MODELS.build(loss)
                  for loss in (loss_decode if several else [loss_decode])]
        self.loss_decode = nn.ModuleList(losses) if several else losses[0]

    @property
    def losses(self) -> List[nn.Module]:
        """All losses of ``loss_decode``."""
        several = isinstance(self.loss_decode, nn.ModuleList)
        return list(self.loss_decode) if several else [self.loss_decode]

    def check_backbone(self, backbone: Any) -> None:
        super().check_backbone(backbone)
        trunk = backbone.trunk
        size = tuple(n * p for n, p in zip(trunk.grid, trunk.patch_size))
        for reducer in self.learners(backbone):
            self._check_queries(reducer.num_queries, trunk.grid, size)

    def padded(self, maps: List[Tensor], state: TokenState,
               value: float) -> Tensor:
        """Maps (1, H, W) of every image, padded as the images were to one
        size and to whole patches, and stacked.

        Raises:
            ValueError: If there is not one query per patch.
        """
        self._check_queries(
            self.records_of(state)[0].num_queries, state.grid,
            state.image_size)
        height, width = state.image.shape[-2:]
        return torch.stack([
            F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]),
                  value=value) for x in maps])

    @classmethod
    def _check_queries(cls, queries: int, grid: Tuple[int, int],
                       size: Tuple[int, int]) -> None:
        h, w = grid
        if queries != h * w:
            raise ValueError(
                f'the reducer has num_queries={queries}, but an image of '
                f'{size[0]} x {size[1]} px has {h} x {w} = {h * w} patches, '
                f'and {cls.task} trains one query per patch: set '
                f"num_queries={h * w} or 'patch', or crop to the img_size of "
                'the backbone. (mmcropr.CroprMultiLabelHead trains one query '
                'per image, in detection and segmentation.)')
