# Copyright (c) mmcropr contributors.
from mmcropr.registry import TRANSFORMS
from mmcropr.utils.versions import failed_import, register_missing

error = failed_import('mmdet.datasets')
if error:
    LoadPanopticAnnotations = register_missing(
        TRANSFORMS, 'LoadPanopticAnnotations', 'mmdet', error)
else:
    from .panoptic import LoadPanopticAnnotations

__all__ = ['LoadPanopticAnnotations']
