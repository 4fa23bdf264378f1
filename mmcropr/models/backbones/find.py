# Copyright (c) mmcropr contributors.
from typing import Optional

from torch import nn

from .cropr_vit import CroprViT


def cropr_vit_of(backbone: Optional[nn.Module]) -> Optional[CroprViT]:
    """The CroprViT that a model has as its backbone, itself or as the
    ``module`` of a wrapper such as a LoRA model; None if it has another."""
    if not isinstance(backbone, (CroprViT, type(None))):
        backbone = backbone._modules.get('module')
    return backbone if isinstance(backbone, CroprViT) else None
