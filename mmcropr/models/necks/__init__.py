# Copyright (c) mmcropr contributors.
from .llf_neck import LLFNeck, check_neck
from .simple_fpn import SimpleFPN

__all__ = ['LLFNeck', 'SimpleFPN', 'check_neck']
