# Copyright (c) mmcropr contributors.
from mmcropr.registry import MODELS
from mmcropr.utils.versions import failed_import, register_missing

# MMDetection refuses an mmcv it does not know by an AssertionError, and an
# mmcv without its ops fails only here.
error = failed_import('mmdet.models')
if error:
    CroprDetector = register_missing(MODELS, 'CroprDetector', 'mmdet', error)
else:
    from .cropr_detector import CroprDetector

__all__ = ['CroprDetector']
