# Copyright (c) mmcropr contributors.
import pytest
import torch
from torch import nn

from mmcropr.models import CroprViT, LLFNeck
from mmcropr.utils.versions import version_tuple
from tests.utils import REDUCERS, TINY, TINY_EVA

pytestmark = pytest.mark.skipif(
    version_tuple(torch.__version__) < (2, 4),
    reason='torch.compile of older releases cannot trace this in one graph')


@pytest.mark.parametrize('arch', [TINY, TINY_EVA], ids=['vit', 'eva'])
@pytest.mark.parametrize('kind', REDUCERS)
def test_one_graph(kind, arch):
    """Backbone and neck are one graph with the same result."""
    torch._dynamo.reset()
    reducer = dict(type=f'mmcropr.{kind}', rate=4, align=1)
    model = nn.Sequential(
        CroprViT(arch, img_size=64, out_type='tokens', reducer=reducer),
        LLFNeck()).eval()
    image = torch.rand(2, 3, 64, 64)
    compiled = torch.compile(model, fullgraph=True, backend='eager')
    results = []
    for function in (model, compiled):
        torch.manual_seed(0)
        with torch.no_grad():
            results.append(function(image)[0])
    assert torch.equal(*results)


def test_inductor():
    """Through the default backend, with generated code; few blocks, for the
    compiler takes its time."""
    torch._dynamo.reset()
    reducer = dict(type='mmcropr.Cropr', rate=4)
    model = nn.Sequential(
        CroprViT(dict(TINY, depth=3), img_size=64, out_type='tokens',
                 reducer=reducer), LLFNeck()).eval()
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        found = torch.compile(model, fullgraph=True)(image)[0]
        assert torch.allclose(found, model(image)[0], atol=1e-4)
