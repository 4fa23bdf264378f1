# Copyright (c) mmcropr contributors.
"""Models as they run after training, for the analysis tools."""
from typing import Union

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn


def build_for_inference(cfg: Union[Config, str]) -> nn.Module:
    """Build the model of a config with random weights, in eval mode, without
    what only training needs: no auxiliary head, one folded query per module.

    Args:
        cfg: Config, or the path of one.
    """
    cfg = Config.fromfile(cfg) if isinstance(cfg, str) else cfg.copy()
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model_cfg = cfg.model.copy()
    model_cfg.pop('auxiliary_head', None)
    model = MODELS.build(model_cfg).eval()
    if hasattr(model.backbone, 'fold_queries'):
        model.backbone.fold_queries()
    return model


class Encoder(nn.Module):
    """Backbone and neck of a model: image (B, C, H, W) -> feature maps."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.neck = getattr(model, 'neck', None)

    def forward(self, image):
        x = self.backbone(image)
        return x if self.neck is None else self.neck(x)


class WholeModel(nn.Module):
    """All of a model, without post-processing: image -> raw outputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image):
        return self.model(image, mode='tensor')
