# Copyright (c) mmcropr contributors.
from .two_stage_poly import TwoStagePolyLR

__all__ = ['TwoStagePolyLR']
