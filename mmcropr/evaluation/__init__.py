# Copyright (c) mmcropr contributors.
from .panoptic_metric import PanopticMetric

__all__ = ['PanopticMetric']
