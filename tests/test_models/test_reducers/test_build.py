# Copyright (c) mmcropr contributors.
import pytest
import torch

from mmcropr.models import CroprViT, LLFNeck, Random
from mmcropr.models.reducers.build import find_reducer
from tests.utils import TINY


@pytest.mark.parametrize('kind', ['mmcropr.Random', 'Random', Random])
def test_ways_to_name_it(kind):
    assert find_reducer(dict(type=kind, rate=4)) is Random


@pytest.mark.parametrize('reducer, error, message', [
    ('mmcropr.Random', TypeError, "such as.*rate=40.*got 'mmcropr.Random'"),
    ([dict(type='mmcropr.Random')], ValueError, 'not say how much leaves'),
    ([], TypeError, r'must be a config.* got \[\]'),
    (['mmcropr.Random'], TypeError, "a list of them, got 'mmcropr.Random'"),
    (dict(rate=4), TypeError, 'must be a config such as'),
    (dict(type='Rndom', rate=4), KeyError, "no reducer 'Rndom'.*mmcropr.ToMe"),
    (dict(type='mmcropr.Rndom', rate=4), KeyError,
     "Did you mean 'mmcropr.Random'"),
    (dict(type='cropr', rate=4), KeyError, "Did you mean 'mmcropr.Cropr'"),
    (dict(type='Swin', rate=4), KeyError, "'Swin' is registered. Known are"),
    (dict(type='mmcropr.LLFNeck', rate=4), TypeError, 'no token reducer'),
    (dict(type=LLFNeck, rate=4), TypeError, 'no token reducer'),
    (dict(type='mmcropr.Cropr', rate=4, num_query=4), TypeError,
     'Keys of Cropr: num_heads, num_queries, selection, stop_gradient; of '
     'every reducer: rate'),
    (dict(type='mmcropr.Random', rate=4, p=4), TypeError,
     'Keys of Random: none'),
    (dict(type='mmcropr.EViT', keep=[9, 2], align=1), ValueError,
     'after block 1: EViT cannot take 9 .*to 2 at once, only to 3'),
    (dict(type='mmcropr.ToMe', rate=[2, 9], align=1), ValueError,
     'after block 1: ToMe cannot take 14 tokens, 1 of them prefix tokens, '
     'to 5 at once, only to 8.*align=1'),
])
def test_refused(reducer, error, message):
    with pytest.raises(error, match=message):
        CroprViT(TINY, img_size=64, reducer=reducer)


def test_no_weights_without_work():
    """Distributed training would wait for their gradients."""
    model = CroprViT(TINY, img_size=64, reducer=dict(
        type='mmcropr.SiT', rate=[0, 6, 0], align=1))
    assert [bool(list(r.parameters())) for r in model.reducers] == [
        False, True, False]
    assert model.lengths() == [17, 10, 10]
    assert model(torch.rand(1, 3, 64, 64))[0].shape == (1, 32, 4, 4)


def test_unknown_stage(monkeypatch):
    monkeypatch.setattr(Random, 'stage', 'mlp')
    with pytest.raises(ValueError, match="stage of Random must be .*'mlp'"):
        CroprViT(TINY, img_size=64, reducer=dict(
            type='mmcropr.Random', rate=4))


def test_alignment_that_undoes_pruning():
    with pytest.warns(UserWarning, match='rate=1 prunes nothing of 17 tokens'):
        CroprViT(TINY, img_size=64, reducer=dict(
            type='mmcropr.Random', rate=1, align=1000))
