# Copyright (c) mmcropr contributors.
"""How many operations a module launches, which no CPU clock shows."""
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmcropr.models import CroprViT
from tests.utils import TINY, TINY_EVA


class Launches(TorchDispatchMode):
    """Counts operations that are no views."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if not op.is_view and '_unsafe_view' not in str(op):
            self.counts[str(op)] += 1
        return op(*args, **kwargs or {})


def launches(arch, batch, reducer):
    model = CroprViT(
        arch, img_size=128, patch_size=16, out_type='tokens',
        reducer=reducer).eval()  # yapf: disable
    model.fold_queries()
    image = torch.rand(batch, 3, 128, 128)
    with torch.no_grad(), Launches() as mode:
        model(image)
    return sum(mode.counts.values())


@pytest.mark.parametrize('batch', [1, 8])
@pytest.mark.parametrize('arch, most', [(TINY, 11), (TINY_EVA, 12)])
def test_operations_of_a_cropr_module(arch, most, batch):
    """Whatever comes before it: two modules more behind two."""
    two, four = (
        launches(
            dict(arch, depth=6), batch,
            dict(type='mmcropr.Cropr', rate=8, modules=list(range(number))))
        for number in (2, 4))
    assert 0 < (four - two) / 2 <= most
