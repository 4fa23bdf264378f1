# Copyright (c) mmcropr contributors.
from mmcropr.registry import MODELS
from mmcropr.utils.versions import register_missing

try:
    import mmdet.models  # noqa: F401
except (ImportError, AssertionError) as error:
    FixedSizeDetDataPreprocessor = register_missing(
        MODELS, 'FixedSizeDetDataPreprocessor', 'mmdet', error)
else:
    from .fixed_size import FixedSizeDetDataPreprocessor

__all__ = ['FixedSizeDetDataPreprocessor']
