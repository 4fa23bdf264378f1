# Copyright (c) mmcropr contributors.
from .llf_neck import LLFNeck, check_neck
from .pool_neck import PoolNeck
from .simple_fpn import SimpleFPN, check_pyramid

__all__ = [
    'LLFNeck', 'PoolNeck', 'SimpleFPN', 'check_neck', 'check_pyramid'
]
