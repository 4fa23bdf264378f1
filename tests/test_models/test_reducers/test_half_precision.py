# Copyright (c) mmcropr contributors.
"""Numbers that half precision cannot hold."""
import pytest
import torch
from torch import nn

from mmcropr.models import CroprViT
from mmcropr.models.reducers.dpc_knn import DPCKNN
from mmcropr.models.reducers.patch_merger import PatchMerger
from mmcropr.models.reducers.sit import SiT
from mmcropr.models.reducers.tome import Matching, merge_tokens
from tests.contract import ARCHS, SIZE, build, images
from tests.utils import make_state

HALF = torch.float16
needs_half = pytest.mark.skipif(
    not hasattr(torch, 'get_autocast_dtype'),
    reason='torch 2.1 computes little in float16 on the CPU')


@needs_half
def test_mixtures_of_mixtures_under_amp():
    """Shares are far below what half precision holds, their ratios are not:
    as CUDA's autocast does it, weights are float32, products float16."""
    torch.manual_seed(0)
    state = make_state()
    first = (torch.randn(2, 6, 15, dtype=torch.float64) * 12).softmax(-1)
    second = (torch.randn(2, 4, 6, dtype=torch.float64) * 12).softmax(-1)
    with torch.autocast('cpu', HALF):
        state.mix(torch.randn(2, 6, 4), first.float())
        state.mix(torch.randn(2, 4, 4), second.float())
    product = second @ first
    assert (product.to(HALF).sum(1) == 0).any(), 'nothing is too small'
    share = product / product.sum(1, keepdim=True)
    torch.testing.assert_close(
        state.full()[:, state.num_prefix:],
        (share.transpose(1, 2) @ state.patches.double()).float())


def test_a_patch_without_a_share():
    """It gets the mean of all mixtures."""
    state, weights = make_state(), torch.rand(2, 5, 15)
    weights[1, :, 3] = 0
    state.mix(torch.randn(2, 5, 4), weights)
    full = state.full()[:, state.num_prefix:]
    torch.testing.assert_close(full[1, 3], state.patches[1].mean(0))
    share = weights[0] / weights[0].sum(0)
    torch.testing.assert_close(full[0], share.T @ state.patches[0])


@pytest.mark.parametrize('first, second', [
    ('PatchMerger', 'Sinkhorn'), ('Sinkhorn', 'PatchMerger'),
    ('SiT', 'Sinkhorn')])
def test_two_precisions_of_mixtures(first, second):
    """Sinkhorn's weights are float32 in any model."""
    model = CroprViT(ARCHS['vit'], img_size=SIZE, patch_size=16, reducer=[
        dict(type=f'mmcropr.{first}', modules=[0], keep=[12]),
        dict(type=f'mmcropr.{second}', modules=[1], keep=[6])]).double()
    assert model.eval()(images().double())[0].dtype == torch.float64


@needs_half
@pytest.mark.parametrize('kind, scale', [
    (PatchMerger, 50.), (SiT, nn.Parameter(torch.tensor(50.)))])
def test_weights_of_models_in_half_precision(kind, scale):
    """A share may be smaller than any number of float16."""
    torch.manual_seed(0)
    mixer = kind(256, 4)
    mixer.scale = scale
    mixer.to(HALF)
    patches = torch.randn(1, 64, 256).to(HALF)
    with torch.no_grad():
        mixed, weights = mixer.mix(patches)
    assert weights.dtype == torch.float32 and mixed.dtype == HALF
    small = weights[weights > 0].min()
    assert small.to(HALF) == 0, 'nothing is too small'


def test_sums_of_merged_tokens():
    """300 tokens of 300 are 90 000, beyond half precision; their mean is
    not."""
    x, size = torch.full((1, 4, 2), 300., dtype=HALF), torch.full((1, 4), 300.)
    matching = Matching(*(torch.tensor([rows]) for rows in (
        [0, 1, 3], [2], [3])))
    merged, sizes = merge_tokens(x, size, matching)
    assert merged.dtype == HALF and merged.eq(300).all()
    assert sizes.tolist() == [[300, 300, 600]]


class Score(nn.Module):

    def forward(self, patches):
        return torch.full_like(patches[..., :1], 12.)


def test_scores_of_clusters():
    """exp(12) is beyond half precision."""
    state, reducer = make_state(), DPCKNN(4).eval()
    state.x, reducer.score = state.x.to(HALF), Score()
    reducer(state, 6)
    assert state.x.dtype == HALF and torch.isfinite(state.x).all()


@pytest.mark.parametrize('dtype', [HALF, torch.bfloat16])
def test_clusters_of_many(dtype, monkeypatch):
    """Ones added up one by one end at 2048 in float16 and at 256 in
    bfloat16: a device that adds so must not be given them."""
    state, reducer, seen = make_state(), DPCKNN(4, weighted=False).eval(), []
    plain = torch.Tensor.scatter_add
    monkeypatch.setattr(
        torch.Tensor, 'scatter_add', lambda x, *args: seen.append(x.dtype) or
        plain(x, *args))
    state.x = state.x.to(dtype)
    reducer(state, 6)
    assert state.x.dtype == dtype and set(seen) == {torch.float32}


@pytest.mark.parametrize('options', [dict(rate=0), dict(keep=[20, 20])])
def test_weights_with_nothing_to_do(options):
    """Distributed training waits for the gradient of each."""
    model = build('DPCKNN', **options).train()
    model(images())[0].sum().backward()
    for reducer in model.reducers:
        assert isinstance(reducer, DPCKNN)
        assert reducer.score.weight.grad is not None
