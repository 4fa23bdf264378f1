# Copyright (c) mmcropr contributors.
"""Steps in any order: undone one after the other, or refused."""
from itertools import product

import pytest
import torch

from mmcropr.structures import STEPS, Decide, Merge, Mix, Prune, Sample
from tests.utils import make_state


def prune(state):
    state.prune(torch.rand(2, state.num_current), state.length - 2)


def sample(state):
    rows = torch.stack([
        torch.randperm(state.num_current)[:4].sort()[0] for _ in range(2)])
    state.sample(rows, torch.tensor([[True] * 4, [True] * 3 + [False]]))


def decide(state):
    keep = (torch.rand(2, state.num_current) > 0.3).float()
    state.decide(keep, state.length - 2)


def merge(state):
    slots = torch.arange(state.num_current).expand(2, -1) // 2
    count = slots.max() + 1
    index = (torch.arange(count) * 2).expand(2, -1)
    state.merge(torch.randn(2, count, 4), slots, index)


def mix(state):
    weights = torch.rand(2, 5, state.num_current)
    state.mix(torch.randn(2, 5, 4), weights)


ACTIONS = {Prune: prune, Sample: sample, Decide: decide, Merge: merge,
           Mix: mix}


def test_every_step_is_tried():
    assert set(ACTIONS) == set(STEPS)


@pytest.mark.parametrize('first, second', list(product(STEPS, STEPS)))
def test_any_order_is_right_or_refused(first, second):
    torch.manual_seed(0)
    state = make_state()
    ACTIONS[first](state)
    once, steps = state.full(), len(state.steps)
    middle, shape, x = state.x, state.x.shape, state.x
    if first.__name__ in second.cannot_follow:
        with pytest.raises(ValueError, match=f'{second.__name__} cannot '
                           f'follow {first.__name__}: '):
            ACTIONS[second](state)
        assert state.x is x and len(state.steps) == steps
        return
    ACTIONS[second](state)
    # Undoing the second alone gives what was there, but for what it changed
    slots, removed = state.trace()
    full, prefix = state.full()[:, 2:], state.num_prefix
    assert full.shape == (2, 15, 4) and middle.shape == shape
    stays = slots >= 0
    assert stays.equal(removed < 0)
    if Mix not in (first, second):
        for image, place in product(range(2), range(15)):
            if stays[image, place]:
                wanted = state.patches[image, slots[image, place]]
                assert full[image, place].equal(wanted)
    if second in (Prune, Sample, Decide):
        # these change no token, so nothing at all has changed when undone
        torch.testing.assert_close(state.full(), once)
    assert state.full()[:, :prefix].equal(state.x[:, :prefix])


@pytest.mark.parametrize('kind', [Prune, Merge, Mix, Decide])
def test_steps_that_follow_each_other_are_one(kind):
    torch.manual_seed(0)
    state = make_state(grid=(4, 8))
    for number in range(3):
        state.module = number
        ACTIONS[kind](state)
    assert len(state.steps) == 1 and state.full().shape == (2, 34, 4)
    removed = state.removal_map()
    if kind in (Prune, Decide):
        assert set(removed.unique().tolist()) >= {-1, 0, 1}
    before = removed.clone()
    assert state.restore().removal_map().equal(before), 'history stays'
    assert not state.steps and len(state.history) == 1


def test_pruning_after_merging_takes_sizes_and_mask_along():
    """Once a defect: they kept their old length."""
    state = make_state()
    ones = torch.ones(2, 8)
    slots = torch.arange(15).expand(2, -1) // 2
    index = (torch.arange(8) * 2).expand(2, -1)
    state.merge(state.patches[:, ::2], slots, index, size=2 * ones)
    scores = torch.arange(8.).expand(2, -1)
    state.prune(scores, 2 + 5)
    assert state.size.tolist() == [[1.] * 2 + [2.] * 5] * 2
    state.merge(state.patches[:, :1], torch.zeros(2, 5).long(),
                torch.zeros(2, 1).long())
    assert state.size.tolist() == [[1., 1., 10.]] * 2, 'sizes add up'


def test_places_that_fill_up_leave_first():
    state = make_state()
    rows = torch.arange(6).expand(2, -1)
    valid = torch.tensor([[True] * 6, [True, False] * 3])
    state.sample(rows, valid)
    state.prune(torch.tensor([[1., 2, 3, 4, 5, 6]] * 2), 2 + 3)
    assert state.index.tolist() == [[3, 4, 5], [0, 2, 4]]
    assert state.mask.all()
