# Copyright (c) mmcropr contributors.
from .llf_neck import LLFNeck
from .simple_fpn import SimpleFPN

__all__ = ['LLFNeck', 'SimpleFPN']
