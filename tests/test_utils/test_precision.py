# Copyright (c) mmcropr contributors.
import torch

from mmcropr.utils.precision import (at_least_float32, product_dtype,
                                     without_autocast)


def test_without_autocast():
    x = torch.ones(2, 2)
    with torch.autocast('cpu', torch.bfloat16):
        assert product_dtype(x) == (x @ x).dtype == torch.bfloat16
        with without_autocast(x):
            assert product_dtype(x) == (x @ x).dtype == torch.float32


def test_a_device_that_autocast_does_not_know():
    x = torch.ones(2, 2, device='meta')
    with without_autocast(x):
        assert product_dtype(x) == (x @ x).dtype == torch.float32


def test_at_least_float32():
    for given, wanted in ((torch.float16, torch.float32),
                          (torch.bfloat16, torch.float32),
                          (torch.float32, torch.float32),
                          (torch.float64, torch.float64)):
        assert at_least_float32(torch.ones(1, dtype=given)).dtype == wanted
