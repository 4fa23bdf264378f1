# Copyright (c) mmcropr contributors.
from mmcropr.registry import MODELS
from mmcropr.utils.versions import failed_import, register_missing

# mmpretrain is an extra that only classification needs.
error = failed_import('mmpretrain.models.classifiers')
if error:
    CroprClassifier = register_missing(MODELS, 'CroprClassifier',
                                       'mmpretrain', error)
else:
    from .cropr_classifier import CroprClassifier

__all__ = ['CroprClassifier']
