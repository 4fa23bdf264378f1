# Copyright (c) mmcropr contributors.
from mmcropr.registry import MODELS
from mmcropr.utils.versions import register_missing

# mmpretrain is an extra that only classification needs.
try:
    import mmpretrain.models.classifiers  # noqa: F401
except (ImportError, AssertionError) as error:
    CroprClassifier = register_missing(MODELS, 'CroprClassifier',
                                       'mmpretrain', error)
else:
    from .cropr_classifier import CroprClassifier

__all__ = ['CroprClassifier']
