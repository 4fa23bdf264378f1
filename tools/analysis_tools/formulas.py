# Copyright (c) mmcropr contributors.
"""What torch's counter of operations does not know."""
from typing import Any, Callable, Dict

import torch


def attention_formulas() -> Dict[Any, Callable]:
    """FLOPs of the fused attention of CPUs, which torch's counter does not
    know: two products forward, five backward."""
    ops = torch.ops.aten

    def forward(q: tuple, k: tuple, v: tuple, *args: Any,
                **kwargs: Any) -> int:
        batch, heads, queries, dim = q
        return 2 * batch * heads * queries * k[2] * (dim + v[3])

    def backward(above: tuple, q: tuple, k: tuple, v: tuple, *args: Any,
                 **kwargs: Any) -> int:
        return 5 * forward(q, k, v) // 2

    names = '_scaled_dot_product_flash_attention_for_cpu'
    found = {}
    for name, formula in ((names, forward), (f'{names}_backward', backward)):
        if hasattr(ops, name):
            found[getattr(ops, name)] = formula
    return found
