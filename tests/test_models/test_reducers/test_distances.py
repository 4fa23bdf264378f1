# Copyright (c) mmcropr contributors.
import torch

from mmcropr.models.reducers.distances import pairwise_distances


def test_distances_are_those_of_every_pair():
    """Also of tokens far from zero and near each other, where a product of
    them as they are would lose all digits."""
    torch.manual_seed(0)
    for mean, scale in ((0., 1.), (1000., 0.1)):
        x = mean + scale * torch.randn(2, 40, 16)
        found = pairwise_distances(x)
        wanted = (x[:, :, None].double() - x[:, None].double()).norm(dim=-1)
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4,
                                   atol=1e-4 * scale)
        assert (found.diagonal(dim1=1, dim2=2) == 0).all()
        assert found.equal(found.transpose(1, 2))


def test_half_precision_is_no_less_exact():
    x = torch.randn(1, 30, 8)
    with torch.autocast('cpu', torch.bfloat16):
        found = pairwise_distances(x)
    assert found.equal(pairwise_distances(x))
