# Copyright (c) mmcropr contributors.
from .cropr_vit import CroprViT

__all__ = ['CroprViT']
