# Copyright (c) mmcropr contributors.
from .host_neck import HostNeck
from .llf_neck import LLFNeck, check_neck
from .pool_neck import PoolNeck
from .readout_neck import ReadoutNeck
from .simple_fpn import SimpleFPN, check_pyramid

__all__ = [
    'HostNeck', 'LLFNeck', 'PoolNeck', 'ReadoutNeck', 'SimpleFPN',
    'check_neck', 'check_pyramid'
]
