# Copyright (c) mmcropr contributors.
from contextlib import nullcontext
from typing import ContextManager

import torch
from torch import Tensor


def casts(device: str) -> bool:
    """Whether ``torch.autocast`` knows a type of device: of all but two that
    depends on the version of torch."""
    if device in ('cpu', 'cuda'):
        return True
    known = getattr(torch.amp, 'is_autocast_available', None)
    return known is not None and known(device)


def without_autocast(x: Tensor) -> ContextManager:
    """Context in which what is done with ``x`` keeps its precision."""
    try:
        return torch.autocast(x.device.type, enabled=False)
    except RuntimeError:  # it does not know the device, so it casts nothing
        return nullcontext()


def at_least_float32(x: Tensor) -> Tensor:
    """The same numbers; float32 where they are of half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def product_dtype(x: Tensor) -> torch.dtype:
    """Precision in which a matrix product of ``x`` is computed here: what
    autocast says, where it is on for the device, else that of ``x``."""
    device = x.device.type
    if not x.is_floating_point() or x.dtype == torch.float64 or not casts(
            device):
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
