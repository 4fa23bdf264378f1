# Copyright (c) mmcropr contributors.
from .llf_neck import LLFNeck

__all__ = ['LLFNeck']
