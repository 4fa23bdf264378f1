# Copyright (c) mmcropr contributors.
import numpy as np
import pytest
import torch

from mmcropr.models import CroprViT
from mmcropr.visualization import (Fates, merge_colours, record_fates,
                                   removal_figure, strip_figure)
from mmcropr.visualization.figures import removal_colours, survivors
from tests.utils import REDUCERS, TINY


def record(name, batch=2):
    torch.manual_seed(0)
    model = CroprViT(
        TINY, img_size=64, patch_size=16,
        reducer=dict(type=f'mmcropr.{name}', keep=[12, 7], modules=[0, 2],
                     align=1)).eval()  # yapf: disable
    image = torch.rand(batch, 3, 64, 64)
    with torch.no_grad(), record_fates(model) as found:
        state = model(image).state
    return model, image, state, found


@pytest.mark.parametrize('name', REDUCERS)
def test_fates_are_those_of_the_state(name):
    model, image, state, found = record(name)
    fates, = found
    assert len(fates) == 2
    slots, removed = state.trace()
    for number, one in enumerate(fates):
        assert one.grid == (4, 4) and one.patch == (16, 16)
        assert one.blocks == [0, 2] and one.slots.shape == (2, 16)
        assert (one.removed.ravel() == removed[number].numpy()).all()
        assert (one.slots[-1] == slots[number].numpy()).all()
        assert one.counts == sorted(one.counts, reverse=True)
        assert 0 < one.counts[-1] < 16
    with torch.no_grad():
        model(image)
    assert len(found) == 1, 'recording has ended'
    assert not any('score' in vars(r) for r in model.reducers)


def test_scores_decide():
    model, image, _, found = record('Variance')
    for fates in found[0]:
        for number, row in enumerate(fates.scores):
            before = fates.slots[number - 1] >= 0 if number else np.full(
                16, True)
            assert (np.isnan(row) == ~before).all()
            stays = fates.slots[number] >= 0
            assert row[stays].min() >= row[before & ~stays].max()
    assert np.isnan(record('ToMe')[3][0][0].scores).all()


def test_without_reducers_there_is_nothing():
    model = CroprViT(TINY, img_size=64, patch_size=16).eval()
    with torch.no_grad(), record_fates(model) as found:
        model(torch.rand(1, 3, 64, 64))
    assert found == []


def hand_made(slots):
    return Fates((1, 4), (2, 2), [1, 3][:len(slots)], np.array(slots),
                 np.full((len(slots), 4), np.nan))


def test_colours():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3).repeat(2, 1)
    fates = hand_made([[0, -1, 1, 2], [-1, -1, 0, 1]])
    assert fates.removed.tolist() == [[1, 0, -1, -1]]
    assert not fates.merges and fates.counts == [3, 2]
    colours = removal_colours(image, fates)
    assert (colours[:, 4:] * 255).round().astype(int).tolist() == (
        image[:, 4:].tolist())
    early, late = colours[0, 2], colours[0, 0]
    assert early.sum() < late.sum(), 'dark patches left first'
    veiled = survivors(image, fates, 0)
    assert veiled[0, 2:4].min() > 0.8 and veiled[0, :2].max() < 0.1
    merged = hand_made([[0, 0, 1, -1]])
    assert merged.merges and merged.counts == [2]
    shared = merge_colours(image, merged)
    wanted = image[:, :4].reshape(-1, 3).mean(0) / 255
    assert np.allclose(shared[:, :4], wanted)
    assert (shared[:, 6:] == 0).all()


def test_one_colour_of_a_block_for_all_methods():
    """Also where one has fewer modules; the legend has all."""
    image = np.zeros((2, 8, 3), np.uint8)
    late = Fates((1, 4), (2, 2), [3], np.array([[0, -1, 1, 2]]),
                 np.full((1, 4), np.nan))
    methods = dict(a=hand_made([[0, -1, 1, 2], [-1, -1, 0, 1]]), b=late)
    figure = removal_figure(image, methods)
    drawn = [axes.get_images()[0].get_array() for axes in figure.axes]
    (_, on_image, alone), (_, other, alone2) = drawn[:3], drawn[3:]
    assert np.allclose(other[:, 2:4], on_image[:, :2])  # both after block 3
    assert np.allclose(alone2[:, 2:4], alone[:, :2])
    handles = figure.legends[0].get_patches()
    assert np.allclose(handles[2].get_facecolor()[:3], other[0, 2])


def test_figures():
    image = np.zeros((2, 7, 3), np.uint8)  # one column less than the patches
    methods = dict(
        a=hand_made([[0, -1, 1, 2], [-1, -1, 0, 1]]),
        b=hand_made([[0, 0, 1, -1]]))
    figure = removal_figure(image, methods, dict(a=image, truth=image))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:5] == ['image', 'truth', 'prediction', 'a',
                          '2 of 4 tokens left']
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ['kept', 'after block 1', 'after block 3']
    titles = [axes.get_title() for axes in strip_figure(image, methods).axes]
    assert titles == ['a', 'block 1: 3', 'block 3: 2', 'b', 'block 1: 2', '']
