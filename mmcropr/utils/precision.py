# Copyright (c) mmcropr contributors.
import torch
from torch import Tensor


def product_dtype(x: Tensor) -> torch.dtype:
    """Precision in which a matrix product of ``x`` is computed here: what
    autocast says, where it is on for the device, else that of ``x``."""
    device = x.device.type
    if not x.is_floating_point() or x.dtype == torch.float64:
        return x.dtype
    if hasattr(torch, 'get_autocast_dtype'):
        enabled = torch.is_autocast_enabled(device)
        return torch.get_autocast_dtype(device) if enabled else x.dtype
    # torch before 2.4 has functions of their own for the CPU
    if device == 'cpu':
        enabled = torch.is_autocast_cpu_enabled()
        return torch.get_autocast_cpu_dtype() if enabled else x.dtype
    enabled = torch.is_autocast_enabled()
    return torch.get_autocast_gpu_dtype() if enabled else x.dtype
