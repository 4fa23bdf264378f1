# Copyright (c) mmcropr contributors.
"""What a comparison sees."""
import copy

import numpy as np
import pytest
import torch

from mmcropr.deploy.compare import Comparison, Report, same_parts
from mmcropr.deploy.model import DeployModel
from mmcropr.deploy.watch import watch
from mmcropr.models import CroprViT, LLFNeck, TopKPruner
from tests.utils import TINY

SHAPE = (48, 40)


class Encoder(torch.nn.Module):

    def __init__(self, **reducer) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = CroprViT(
            TINY, img_size=SHAPE, patch_size=8, out_type='tokens',
            reducer=dict(dict(type='mmcropr.Cropr', keep=[20, 12],
                              modules=[0, 1], align=1), **reducer))
        self.neck = LLFNeck()
        for parameter in self.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)


@pytest.fixture
def image():
    return np.random.RandomState(0).randn(1, 3, *SHAPE).astype(np.float32)


def outputs(model, image):
    with torch.no_grad():
        values = model(torch.from_numpy(image))
    return dict(zip(model.output_names(), (x.numpy() for x in values)))


def compare(model, image, found, half=None) -> Report:
    comparison = Comparison(model, half)
    comparison.add('a.png', image, found)
    return comparison.report


def test_equal(image):
    model = DeployModel(Encoder(), SHAPE, 'encoder')
    report = compare(model, image, outputs(model, image))
    assert report.failures() == []
    assert (report.error, report.changed) == (0, [0, 0])
    assert '1 images' in report.lines()[0]


@pytest.mark.parametrize('module', [0, 1])
def test_other_tokens(module, image):
    """The first module that differs is named."""
    model = DeployModel(Encoder(), SHAPE, 'encoder')
    other = copy.deepcopy(model)
    other.backbone.reducers[module].queries.data.neg_()
    report = compare(model, image, outputs(other, image))
    assert report.first == module
    assert any(f'module {module} is' in x for x in report.failures())


def test_other_values(image):
    model = DeployModel(Encoder(), SHAPE, 'encoder')
    found = outputs(model, image)
    found['map_0'] = found['map_0'] + 0.01 * np.abs(found['map_0']).max()
    failure, = compare(model, image, found).failures()
    assert 'values differ by 1.0e-02' in failure
    found['map_0'][0, 0, 0, 0] = np.nan
    assert 'no numbers' in compare(model, image, found).failures()[0]
    found['map_0'] = found['map_0'][:, 1:]
    with pytest.raises(ValueError, match=r'\(1, 31, 6, 5\) in the file'):
        compare(model, image, found)


class Flat(TopKPruner):
    """Equal scores everywhere: every order is right."""

    def score(self, state):
        return state.x.new_zeros(len(state.x), state.num_current)


def test_tie(image):
    """Equal scores can be ordered otherwise; it is said, and no failure."""
    model = DeployModel(Encoder(), SHAPE, 'encoder')
    model.backbone.reducers[0] = Flat(32)
    found = outputs(model, image)
    removed = found['removed'].ravel()
    first, kept = np.flatnonzero(removed == 0)[0], np.flatnonzero(
        removed == -1)[0]
    removed[first], removed[kept] = -1, 0
    found['map_0'] = found['map_0'] + 1
    report = compare(model, image, found)
    assert report.failures() == []
    assert report.ties == [(0, 'a.png')] and report.changed[0] == 2
    assert any('tie at module 0 in a.png' in x for x in report.lines())


def test_merged(image):
    """Numbers of merged tokens do not matter, what is in them does."""
    model = DeployModel(Encoder(type='mmcropr.ToMe'), SHAPE, 'encoder')
    found = outputs(model, image)
    assert compare(model, image, found).failures() == []
    slot = found['slot']
    found['slot'] = np.where(slot < 2, 1 - slot, slot)
    assert compare(model, image, found).failures() == []
    found['slot'] = np.minimum(slot, 3)
    assert 'merged otherwise' in compare(model, image, found).failures()[0]
    assert same_parts(np.array([5, -1, 2, 5])).tolist() == [0, -1, 2, 0]


def test_half(image):
    """Drift of every block, 0 where nothing differs."""
    model = DeployModel(Encoder(), SHAPE, 'encoder')
    report = compare(model, image, outputs(model, image), half=model)
    assert report.drift == [0] * 4
    half = DeployModel(copy.deepcopy(Encoder()).bfloat16(), SHAPE, 'encoder')
    report = compare(model, image, outputs(model, image), half=half)
    assert all(1e-4 < x < 1 for x in report.drift)
    assert report.failures() == []


@pytest.mark.parametrize('reducer', ['Cropr', 'TopK', 'ToMe'])
def test_watch(reducer, image):
    """Tokens behind every block, and scores of every module."""
    model = DeployModel(
        Encoder(type=f'mmcropr.{reducer}'), SHAPE, 'encoder')
    found = outputs(model, image)
    with watch(model.backbone) as seen, torch.no_grad():
        model(torch.from_numpy(image))
    assert seen.blocks[3].index is None and seen.blocks[2].index is not None
    inside = model.backbone.reducers[0].stage == 'attention'
    lengths = [20, 12, 12, 31] if inside else [31, 20, 12, 31]
    assert [x.x.shape[1] for x in seen.blocks] == lengths
    if reducer == 'ToMe':
        assert seen.scores == [None, None]
        return
    pruned = found['removed'].ravel()
    scores = seen.scores[0][0].numpy()
    assert scores[pruned == 0].max() <= scores[pruned != 0].min()
    assert np.isinf(seen.scores[1][0].numpy()).sum() == (pruned == 0).sum()
    assert not model.backbone._forward_pre_hooks, 'nothing stays'


def test_refused():
    with pytest.raises(ValueError, match='Random draws random numbers'):
        Comparison(
            DeployModel(Encoder(type='mmcropr.Random'), SHAPE, 'encoder'))
