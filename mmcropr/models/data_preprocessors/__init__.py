# Copyright (c) mmcropr contributors.
from mmcropr.registry import MODELS
from mmcropr.utils.versions import failed_import, register_missing

error = failed_import('mmdet.models')
if error:
    FixedSizeDetDataPreprocessor = register_missing(
        MODELS, 'FixedSizeDetDataPreprocessor', 'mmdet', error)
else:
    from .fixed_size import FixedSizeDetDataPreprocessor

__all__ = ['FixedSizeDetDataPreprocessor']
