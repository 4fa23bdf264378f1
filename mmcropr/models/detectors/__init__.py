# Copyright (c) mmcropr contributors.
from mmcropr.registry import MODELS
from mmcropr.utils.versions import register_missing

# MMDetection refuses an mmcv it does not know by an AssertionError, and an
# mmcv without its ops fails only here.
try:
    import mmdet.models  # noqa: F401
except (ImportError, AssertionError) as error:
    CroprDetector = register_missing(MODELS, 'CroprDetector', 'mmdet', error)
else:
    from .cropr_detector import CroprDetector

__all__ = ['CroprDetector']
