# Copyright (c) mmcropr contributors.
from mmcropr.registry import TRANSFORMS
from mmcropr.utils.versions import register_missing

try:
    import mmdet.datasets  # noqa: F401
except (ImportError, AssertionError) as error:
    LoadPanopticAnnotations = register_missing(
        TRANSFORMS, 'LoadPanopticAnnotations', 'mmdet', error)
else:
    from .panoptic import LoadPanopticAnnotations

__all__ = ['LoadPanopticAnnotations']
