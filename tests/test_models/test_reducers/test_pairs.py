# Copyright (c) mmcropr contributors.
"""Every two reducers in one model."""
import pytest
import torch

from mmcropr.models import CroprViT
from mmcropr.registry import MODELS
from mmcropr.structures import Merge, Mix, Route
from tests.contract import KEEP, SIZE, check_places, images, tokens, walk
from tests.utils import REDUCERS, TINY

# Pairs that are wrong in any case, and why: patches that were decided against
# are still there; places that fill up belong to no patch
MERGERS = ['EViT'] + [
    name for name in REDUCERS
    if {Merge, Mix} & set(MODELS.get(name).step_types)
]
REFUSED = {('DynamicViT', name) for name in REDUCERS if name != 'DynamicViT'}
REFUSED |= {('ATS', name) for name in MERGERS}


@pytest.mark.parametrize('second', REDUCERS)
@pytest.mark.parametrize('first', REDUCERS)
def test_pairs(first, second):
    """Two methods in one model do what each does alone, or are refused."""
    torch.manual_seed(0)
    reducer = [
        dict(type=f'mmcropr.{name}', keep=[length], modules=[block], align=1)
        for name, length, block in ((first, 20, 1), (second, 14, 2))]
    if (first, second) in REFUSED:
        with pytest.raises(ValueError, match=f'{second} cannot work after '
                           f'block 2.* cannot follow .*: '):
            CroprViT(TINY, img_size=SIZE, reducer=reducer)
        return
    model = CroprViT(TINY, img_size=SIZE, patch_size=16, reducer=reducer)
    assert [type(r).__name__ for r in model.reducers] == [first, second]
    assert model.lengths() == KEEP
    with torch.no_grad():
        state, seen = walk(model.eval(), images())
        check_places(state, seen)
        assert state.size is None or (
            second in ('PatchMerger', 'SiT', 'Sinkhorn')
            or state.size.shape == state.x.shape[:2])
        if not any(r.draws for r in model.reducers):
            alone = [tokens(model, image[None]) for image in images()]
            together = torch.cat([s.full() for s in alone])
            torch.testing.assert_close(
                state.full(), together, rtol=1e-4, atol=1e-5)
    model.out_type = 'featmap'
    maps = model.train()(images())
    (maps[0] * torch.rand(32, 4, 6)).sum().backward()
    for key, parameter in model.named_parameters():
        kind = model.reducers[int(key.split('.')[1])] if (
            key.startswith('reducers')) else None
        learns = getattr(kind, 'record_type', None) is not Route
        assert (parameter.grad is not None) == learns, key
