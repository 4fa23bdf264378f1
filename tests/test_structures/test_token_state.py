# Copyright (c) mmcropr contributors.
import copy
from itertools import product

import pytest
import torch

from mmcropr.structures import FeatureMaps, put_rows, split_lowest, take_rows
from tests.utils import make_state

GRID = (3, 5)


def random_rows(batch: int, length: int) -> torch.Tensor:
    return torch.stack([torch.randperm(length) for _ in range(batch)])


@pytest.mark.parametrize('num_keep', [1, 4, 16])
@pytest.mark.parametrize('kind', ['distinct', 'ties', 'equal', 'infinite'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_split_lowest(kind, num_keep, dtype):
    torch.manual_seed(num_keep)
    scores = dict(
        distinct=random_rows(5, 17),
        ties=torch.randint(0, 4, (5, 17)),
        equal=torch.zeros(5, 17),
        infinite=torch.randn(5, 17).sign() * torch.inf)[kind].to(dtype)
    kept, pruned = split_lowest(scores, num_keep)
    assert kept.shape == (5, num_keep)
    assert pruned.shape == (5, 17 - num_keep)
    assert (kept.diff(dim=1) > 0).all(), 'kept places must ascend'
    for row, stays, leaves in zip(scores, kept, pruned):
        both = torch.cat([stays, leaves]).tolist()
        assert sorted(both) == list(range(17)), 'each place once'
        assert row[stays].min() >= row[leaves].max()
    if kind == 'distinct':
        wanted = scores.topk(num_keep)[1].sort()[0]
        assert torch.equal(kept, wanted)


@pytest.mark.parametrize('batch', [1, 3])
def test_rows_are_taken_and_put_back(batch):
    torch.manual_seed(0)
    x, rows = torch.randn(batch, 7, 4), random_rows(batch, 7)
    taken = take_rows(x, rows[:, :5])
    for image, place in product(range(batch), range(5)):
        assert torch.equal(taken[image, place], x[image, rows[image, place]])
    assert torch.equal(put_rows(take_rows(x, rows), rows, 7), x)
    assert not torch.equal(take_rows(x, rows), x)


@pytest.mark.parametrize('batch', [1, 2, 3])
@pytest.mark.parametrize('num_prefix', [0, 1, 5])
def test_restore_inverts_several_prunes(batch, num_prefix):
    torch.manual_seed(batch * 10 + num_prefix)
    state = make_state(batch, num_prefix=num_prefix)
    wanted, num_patches = state.x.clone(), state.num_patches
    alive = torch.ones(wanted.shape[:2], dtype=torch.bool)
    left_at = torch.full((batch, num_patches), -1)
    for module, num_keep in enumerate([11, 10, 10, 3]):
        # Stands for a block: those that left before must not see it.
        state.x = state.x * 1.5 + module
        wanted = torch.where(alive[..., None], wanted * 1.5 + module, wanted)
        state.module = module
        scores = torch.rand(batch, num_patches)
        state.prune(
            scores.gather(1, state.raster_index()), num_prefix + num_keep)

        present = alive[:, num_prefix:]
        order = scores.masked_fill(~present, -1).argsort(1, descending=True)
        stays = torch.zeros_like(present).scatter(1, order[:, :num_keep], True)
        left_at[present & ~stays] = module
        alive[:, num_prefix:] = stays
        assert state.length == num_prefix + num_keep
        assert torch.equal(state.x, wanted[alive].view_as(state.x))
        assert torch.equal(state.raster_index(), stays.nonzero()[:, 1].view(
            batch, -1))  # yapf: disable
        assert torch.equal(state.full(), wanted)
        assert torch.equal(state.removal_map(), left_at.view(batch, *GRID))
    assert left_at.unique().tolist() == [-1, 0, 1, 3], 'module 2 had to rest'
    assert state.restore() is state
    assert torch.equal(state.x, wanted) and state.index is None
    assert torch.equal(state.removal_map(), left_at.view(batch, *GRID))


def test_restore_twice():
    state = make_state()
    before = state.x.clone()
    state.prune(torch.rand(2, 15), 9)
    assert torch.equal(state.restore().full(), before)
    assert torch.equal(state.restore().x, before)


def test_without_pruning_all_is_as_it_was():
    state = make_state()
    before = state.x.clone()
    state.prune(torch.rand(2, 15), 17)
    assert state.index is None and not state.steps
    assert torch.equal(state.restore().x, before)
    assert state.raster_index().tolist() == [list(range(15))] * 2
    assert (state.removal_map() == -1).all()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64])
def test_pruned_tokens_take_the_dtype_of_the_current_ones(dtype):
    state = make_state()
    before = state.x.clone()
    state.prune(torch.rand(2, 15), 9)
    state.x = state.x.to(dtype)
    assert state.full().dtype == dtype
    assert torch.equal(state.full(), before.to(dtype))


def test_gradients_reach_kept_and_pruned():
    state = make_state()
    x = state.x = state.x.requires_grad_()
    weight = torch.randn(2, 17, 4)
    scores = torch.arange(15.).expand(2, -1)  # the last patches stay
    state.prune(scores, 12)
    state.x = state.x * 3
    state.prune(scores[:, 5:], 7)
    state.x = state.x * 5
    (state.full() * weight).sum().backward()
    factor = torch.tensor([15.] * 2 + [1.] * 5 + [3.] * 5 + [15.] * 5)
    assert torch.allclose(x.grad, weight * factor[:, None])


def test_map_is_in_raster_order():
    state = make_state()
    tokens, found = state.x, state.to_map(state.x)
    assert found.shape == (2, 4, *GRID)
    for row, column in product(range(3), range(5)):
        wanted = tokens[:, 2 + row * 5 + column]
        assert torch.equal(found[:, :, row, column], wanted)


@pytest.mark.parametrize('length', [0, 2, 18])
def test_prune_refuses(length):
    state = make_state()
    before = state.x.clone()
    with pytest.raises(ValueError, match=f'keep {length} of 17 tokens with 2 '
                       f'prefix tokens.*at most 15 patches'):
        state.prune(torch.rand(2, 15), length)
    assert torch.equal(state.x, before) and not state.steps


def test_prune_refuses_more_than_are_left():
    state = make_state()
    state.prune(torch.rand(2, 15), 8)
    with pytest.raises(ValueError, match='keep 9 of 8 tokens.*most 6 patche'):
        state.prune(torch.rand(2, 6), 9)


@pytest.mark.parametrize(
    'use', [lambda s: s[-1], lambda s: [m for m in s], len, list])
def test_a_head_that_gets_a_state_is_told_what_to_do(use):
    with pytest.raises(TypeError, match="type='mmcropr.LLFNeck'"):
        use(make_state())


def test_finish_needs_a_backbone():
    state = make_state()
    with pytest.raises(RuntimeError, match='no backbone'):
        state.finish()
    state.origin.rest, state.origin.norm = (lambda s: s, ), lambda x: x + 1
    assert torch.equal(state.finish(), state.x + 1)


def test_feature_maps_are_a_tuple_with_a_state():
    state, first, last = make_state(), torch.zeros(1), torch.ones(1)
    maps = FeatureMaps([first, last], state)
    assert isinstance(maps, tuple) and len(maps) == 2
    assert maps[-1] is last and maps[:1] == (first, )
    unpacked, _ = maps
    assert unpacked is first and [m for m in maps][1] is last
    assert maps.state is state
    assert FeatureMaps([first]).state is None
    twin = copy.copy(maps)
    assert twin.state is state and twin[1] is last


@pytest.mark.parametrize('method, args, message', [
    ('prune', [(2, 17), 8], r'scores must be \(2, 15\).*15 current patches, '
     r'without the 2 prefix tokens, got \(2, 17\)'),
    ('prune', [(2, 11), 8], r'scores must be \(2, 15\).*got \(2, 11\)'),
    ('prune', [(2, 15, 1), 8], r'got \(2, 15, 1\)'),
    ('sample', [(2, 5), (2, 4)], r'valid must be \(2, 5\).*got \(2, 4\)'),
    ('decide', [(2, 14), 8], r'keep must be \(2, 15\).*got \(2, 14\)'),
    ('merge', [(2, 5, 4), (2, 5), (2, 15)], r'slots must be \(2, 15\)'),
    ('merge', [(2, 5, 4), (2, 15), (2, 15)], r'index must be \(2, 5\)'),
    ('merge', [(2, 5, 3), (2, 15), (2, 5)], r'patches must be \(2, -1, 4\)'),
    ('mix', [(2, 5, 4), (2, 15, 5)], r'weights must be \(2, 5, 15\)'),
    ('mix', [(5, 4), (2, 15, 5)], r'patches must be \(2, -1, 4\) \(-1: any'),
])
def test_shapes_that_do_not_fit(method, args, message):
    """Of what a new reducer gives; said at once, and nothing is changed."""
    state = make_state()
    args = [torch.zeros(a) if isinstance(a, tuple) else a for a in args]
    x = state.x
    with pytest.raises(ValueError, match=message):
        getattr(state, method)(*args)
    assert state.x is x and not state.steps and state.index is None


@pytest.mark.parametrize('num_prefix', [0, 2])
def test_rows_of_a_table_follow_the_patches(num_prefix):
    """Such as rotary embeddings, through whatever is done to the tokens."""
    torch.manual_seed(0)
    state, table = make_state(num_prefix=num_prefix), torch.randn(15, 6)

    def prune(count):
        state.prune(torch.rand(2, state.num_current), num_prefix + count)

    def merge():
        state.merge(state.patches[:, 3:], torch.zeros(
            2, state.num_current, dtype=torch.long), torch.arange(
                3, state.num_current).expand(2, -1))

    for change in (lambda: prune(12), lambda: prune(11), merge,
                   lambda: prune(5), state.restore, lambda: prune(9)):
        change()
        if state.index_is_trivial:
            continue
        wanted = table[state.raster_index()]
        assert state.rows_of(table).equal(wanted)
        assert state.rows_of(table).shape == (2, state.num_current, 6)
