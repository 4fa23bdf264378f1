# Copyright (c) mmcropr contributors.
from .kept_foreground import KeptForeground
from .panoptic_metric import PanopticMetric

__all__ = ['KeptForeground', 'PanopticMetric']
