# Copyright (c) mmcropr contributors.
from mmcropr.registry import MODELS
from mmcropr.utils.versions import failed_import, register_missing

from .auxiliary_head import Aggregator, AuxiliaryHead
from .dynamic_vit_head import DynamicViTHead
from .multi_label_head import CroprMultiLabelHead
from .state_head import StateHead

# MMSegmentation refuses an mmcv it does not know by an AssertionError.
error = failed_import('mmseg.models')
if error:
    CroprDepthHead = register_missing(MODELS, 'CroprDepthHead', 'mmseg', error)
    CroprSegHead = register_missing(MODELS, 'CroprSegHead', 'mmseg', error)
    DPTDepthHead = register_missing(MODELS, 'DPTDepthHead', 'mmseg', error)
    DToPHead = register_missing(MODELS, 'DToPHead', 'mmseg', error)
    LinearHead = register_missing(MODELS, 'LinearHead', 'mmseg', error)
else:
    from .depth_head import CroprDepthHead
    from .dpt_depth_head import DPTDepthHead
    from .dtop_head import DToPHead
    from .linear_head import LinearHead
    from .seg_head import CroprSegHead

# Masks are matched by mmdet; its mmcv without ops fails only here.
error = failed_import('mmdet.models')
if error:
    EoMTHead = register_missing(MODELS, 'EoMTHead', 'mmdet', error)
    EoMTSegHead = register_missing(MODELS, 'EoMTSegHead', 'mmdet', error)
else:
    from .eomt_head import EoMTHead
    error = failed_import('mmseg.models')
    if error:
        EoMTSegHead = register_missing(MODELS, 'EoMTSegHead', 'mmseg', error)
    else:
        from .eomt_seg_head import EoMTSegHead

# mmpretrain is an extra that only classification needs.
error = failed_import('mmpretrain.models')
if error:
    CroprClsHead = register_missing(MODELS, 'CroprClsHead', 'mmpretrain',
                                    error)
    CroprLabelHead = register_missing(MODELS, 'CroprLabelHead', 'mmpretrain',
                                      error)
    DynamicViTClsHead = register_missing(MODELS, 'DynamicViTClsHead',
                                         'mmpretrain', error)
else:
    from .cls_head import CroprClsHead
    from .dynamic_vit_cls_head import DynamicViTClsHead
    from .label_head import CroprLabelHead

__all__ = [
    'Aggregator', 'AuxiliaryHead', 'CroprClsHead', 'CroprDepthHead',
    'CroprLabelHead', 'CroprMultiLabelHead', 'CroprSegHead', 'DPTDepthHead',
    'DToPHead', 'DynamicViTClsHead', 'DynamicViTHead', 'EoMTHead',
    'EoMTSegHead', 'LinearHead', 'StateHead'
]
