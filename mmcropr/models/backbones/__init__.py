# Copyright (c) mmcropr contributors.
from mmcropr.registry import MODELS
from mmcropr.utils.versions import register_missing

from .cropr_vit import CroprViT
from .find import cropr_vit_of

# mmpretrain is an extra, and its older versions have no LoRA.
try:
    from mmpretrain.models import peft  # noqa: F401
except (ImportError, AssertionError) as error:
    LoRAModel = register_missing(MODELS, 'LoRAModel', 'mmpretrain', error)
else:
    from .lora import LoRAModel

__all__ = ['CroprViT', 'LoRAModel', 'cropr_vit_of']
