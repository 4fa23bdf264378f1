# Copyright (c) mmcropr contributors.
from mmcropr.registry import MODELS
from mmcropr.utils.versions import failed_import, register_missing

from .cropr_vit import CroprViT
from .find import cropr_vit_of

# mmpretrain is an extra, and its older versions have no LoRA.
error = failed_import('mmpretrain.models.peft')
if error:
    LoRAModel = register_missing(MODELS, 'LoRAModel', 'mmpretrain', error)
else:
    from .lora import LoRAModel

__all__ = ['CroprViT', 'LoRAModel', 'cropr_vit_of']
