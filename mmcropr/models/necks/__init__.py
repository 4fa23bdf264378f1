# Copyright (c) mmcropr contributors.
from .dtop_neck import DToPNeck
from .fusion_neck import (CrossAttnConcatNeck, CrossAttnNeck, FusionNeck,
                          MHSAConcatNeck, TokenConcatNeck)
from .host_neck import HostNeck
from .llf_neck import LLFNeck, check_neck
from .pool_neck import PoolNeck
from .readout_neck import ReadoutNeck
from .simple_fpn import SimpleFPN, check_pyramid

__all__ = [
    'CrossAttnConcatNeck', 'CrossAttnNeck', 'DToPNeck', 'FusionNeck',
    'HostNeck', 'LLFNeck', 'MHSAConcatNeck', 'PoolNeck', 'ReadoutNeck',
    'SimpleFPN', 'TokenConcatNeck', 'check_neck', 'check_pyramid'
]
