# Copyright (c) mmcropr contributors.
from typing import Any, Dict

from torch import nn

from mmcropr.registry import OPTIM_WRAPPER_CONSTRUCTORS

from .layer_decay import LayerDecayOptimWrapperConstructor


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class EoMTOptimWrapperConstructor(LayerDecayOptimWrapperConstructor):
    """Learning rates as EoMT (CVPR 2025) has them.

    The last block has the full rate, as all that is behind it, and each block
    before it ``layer_decay_rate`` times that of the next; embeddings count as
    the first block. Groups of the ViT's own weights, which reducers are not
    among, have ``pretrained=True``, for :class:`TwoStagePolyLR`.

    Args:
        optim_wrapper_cfg: As of mmengine.
        paramwise_cfg: As of :class:`LayerDecayOptimWrapperConstructor`, with
            ``full_rate_blocks``, how many of the last blocks have the full
            rate all the same, 0 by default.
    """

    def __init__(self,
                 optim_wrapper_cfg: dict,
                 paramwise_cfg: dict = None) -> None:
        cfg = dict(paramwise_cfg or {})
        self.full_rate_blocks = cfg.pop('full_rate_blocks', 0)
        super().__init__(optim_wrapper_cfg, cfg)

    def _scale(self, depth: int, total: int) -> float:
        last = total - 2
        if depth > last - self.full_rate_blocks:
            return 1.
        return self.decay_rate**(last - max(depth, 1))

    def _marks(self, model: nn.Module) -> Dict[nn.Parameter, Dict[str, Any]]:
        return {
            parameter: dict(pretrained=True)
            for _, backbone in self._backbones(model)
            for parameter in backbone.vit.parameters()
        }
