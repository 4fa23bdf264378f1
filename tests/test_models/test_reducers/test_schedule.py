# Copyright (c) mmcropr contributors.
from itertools import product

import numpy as np
import pytest

from mmcropr.models.reducers import PruningSchedule
from mmcropr.models.reducers.schedule import sloped_rates

LARGE = dict(depth=24, grid=(32, 32), num_prefix=1)
SMALL = dict(depth=6, grid=(8, 8), num_prefix=1)


@pytest.mark.parametrize('amount', [dict(rate=40), dict(tpr=0.86)])
def test_published_1024(amount):
    schedule = PruningSchedule(**LARGE, **amount)
    assert len(schedule) == 22
    assert list(schedule.modules) == list(range(22))
    assert schedule.lengths() == list(range(984, 143, -40))
    assert schedule.describe() == (
        '22 modules after blocks 0..21, 984..144 tokens of 1025 on a 32 x 32 '
        'grid, TPR 86.0%')


def test_published_9216():
    schedule = PruningSchedule(24, (96, 96), 1, tpr=0.97)
    lengths = schedule.lengths()
    assert len(lengths) == 22 and all(n % 8 == 0 for n in lengths)
    assert abs((9217 - lengths[-1]) / 9216 - 0.97) < 1e-3
    steps = np.diff([9216, *lengths])
    assert set(steps) == {-400, -408}, 'evenly, 406.3 each'


@pytest.mark.parametrize('align', [1, 8])
def test_published_196(align):
    schedule = PruningSchedule(24, (14, 14), 1, rate=8, align=align)
    exact = [196 - 8 * (i + 1) for i in range(22)]
    if align == 8:
        exact = [n + 4 for n in exact]  # 188 -> 192, 180 -> 184, ...
    assert schedule.lengths() == exact


@pytest.mark.parametrize('num_prefix', [0, 1, 5])
def test_lengths_are_aligned_whatever_the_prefix(num_prefix):
    schedule = PruningSchedule(12, (16, 16), num_prefix, rate=20)
    wanted = [-(-(256 - 20 * (i + 1)) // 8) * 8 for i in range(10)]
    assert schedule.lengths() == wanted


def test_keep_is_exact():
    keep = [50, 33, 33, 7]
    schedule = PruningSchedule(**SMALL, keep=keep)
    assert schedule.lengths() == keep
    assert schedule.lengths((4, 16)) == keep, 'as many patches'
    assert list(schedule.modules) == [0, 1, 2, 3]
    # A quarter of the patches: 12.5, 8.25, 8.25 and 1.75 rounded up to 8.
    assert schedule.lengths((4, 4)) == [16, 16, 16, 8]
    exact = PruningSchedule(**SMALL, keep=keep, align=1)
    assert exact.lengths((4, 4)) == [13, 9, 9, 2]
    assert PruningSchedule(**SMALL, keep=[65, 40]).lengths() == [65, 40]


def test_modules():
    schedule = PruningSchedule(12, (14, 14), 1, tpr=0.75, modules=[3, 6, 9])
    assert schedule.modules == (3, 6, 9)
    assert schedule.lengths() == [152, 104, 56]  # 147, 98 and 49 rounded up
    schedule = PruningSchedule(**SMALL, keep=[40, 30], modules=(1, 4))
    assert schedule.modules == (1, 4) and schedule.lengths() == [40, 30]
    # Without fusion a module may follow the last block but one.
    every = PruningSchedule(**SMALL, rate=8, modules=range(5))
    assert every.lengths() == [56, 48, 40, 32, 24]


def test_other_grids_lose_the_same_share():
    schedule = PruningSchedule(**LARGE, rate=40)
    for grid in ((16, 16), (48, 32), (40, 64)):
        total = grid[0] * grid[1]
        for i, length in enumerate(schedule.lengths(grid)):
            left = total * (1 - 40 * (i + 1) / 1024)
            assert length % 8 == 0 and left <= length < left + 8


@pytest.mark.parametrize('amount', [
    dict(rate=14), dict(tpr=0.9), dict(keep=[60, 40, 20, 7]),
    dict(rate=14, align=1)
])  # yapf: disable
def test_small_grids_keep_a_patch(amount):
    for num_prefix in (0, 1, 5):
        schedule = PruningSchedule(6, (8, 8), num_prefix, **amount)
        for grid in product(range(1, 10), range(1, 10)):
            start = grid[0] * grid[1] + num_prefix
            lengths = [start, *schedule.lengths(grid)]
            assert lengths == sorted(lengths, reverse=True), 'must not grow'
            assert lengths[-1] > num_prefix, 'at least one patch'


def test_rates_per_module():
    schedule = PruningSchedule(**SMALL, rate=[20, 0, 10], align=1)
    assert schedule.modules == (0, 1, 2)
    assert schedule.lengths() == [44, 44, 34]
    assert schedule.lengths((4, 4)) == [11, 11, 9]  # 16 - 7.5 rounded up
    assert schedule.lengths(progress=(1, 2)) == [54, 54, 49]
    assert schedule.lengths(progress=(0, 2)) == [65, 65, 65]
    schedule = PruningSchedule(**SMALL, rate=[20, 12], modules=[1, 3])
    assert schedule.lengths() == [48, 32]


def test_slope():
    """The example of compared_methods.md (ToMe), and a constant."""
    assert sloped_rates(13, -1, 12) == [
        26, 23, 21, 18, 16, 14, 11, 9, 7, 4, 2, 0]
    assert sloped_rates(13, 1, 3) == [0, 13, 26]
    assert sloped_rates(13, 0, 4) == [13] * 4
    assert sloped_rates(13, -1, 1) == [13]
    falling = PruningSchedule(12, (14, 14), 1, rate=13, slope=-1, align=1,
                              modules=range(11))
    assert falling.lengths() == [
        196 - sum(sloped_rates(13, -1, 11)[:i + 1]) for i in range(11)]
    flat = PruningSchedule(**LARGE, rate=40, slope=0)
    assert flat.lengths() == PruningSchedule(**LARGE, rate=40).lengths()


@pytest.mark.parametrize('rate, left', [
    (0.9, [176, 158, 142]), (0.7, [137, 96, 67]), (0.5, [98, 49, 24]),
    (0.25, [49, 12, 3]), (1, [196, 196, 196]),
])  # yapf: disable
def test_keep_rate(rate, left):
    """The table of docs/en/advanced_guides/compared_methods.md."""
    options = dict(modules=[2, 5, 8], align=1)
    schedule = PruningSchedule(12, (14, 14), 1, keep_rate=rate, **options)
    assert schedule.lengths() == [n + 1 for n in left]
    twin = PruningSchedule(12, (14, 14), 1, keep_rate=[rate] * 3, **options)
    assert twin.lengths() == schedule.lengths()
    # The same share of any grid
    half = schedule.lengths((14, 7))
    assert half == [int(98 * rate**(i + 1)) + 1 for i in range(3)]
    # Each rate falls from 1, as in training of EViT
    assert schedule.lengths(progress=(0, 3)) == [197] * 3
    part = 1 - (1 - rate) / 4
    assert schedule.lengths(progress=(1, 4)) == [
        int(196 * part**(i + 1) + 1e-9) + 1 for i in range(3)]
    aligned = PruningSchedule(12, (14, 14), 1, keep_rate=rate,
                              modules=[2, 5, 8]).lengths()
    assert aligned == [min(-(-(n + 1) // 8) * 8, 197) for n in left]


def test_progress_floors_the_rate():
    schedule = PruningSchedule(**LARGE, rate=40, align=1)
    epochs = 32  # of 64; method.md, curriculum
    for epoch, share in enumerate(np.linspace(0, 40, epochs)):
        rate = int(np.floor(share))
        wanted = [1024 - rate * (i + 1) for i in range(22)]
        if rate == 0:
            wanted = [1025] * 22
        found = schedule.lengths(progress=(epoch, epochs - 1))
        assert found == wanted, epoch


@pytest.mark.parametrize('amount, wanted', [
    (dict(rate=7), [61, 58, 55, 52]),
    (dict(tpr=0.45), [61, 58, 55, 52]),  # 7.2 per module, half of it 3.6
    (dict(keep=[57, 51, 30, 20]), [61, 58, 47, 42])
])  # yapf: disable
def test_progress_of_every_kind(amount, wanted):
    schedule = PruningSchedule(**SMALL, **amount, align=1)
    assert schedule.lengths(progress=(1, 2)) == wanted
    assert schedule.lengths(progress=(0, 2)) == [65] * 4
    assert schedule.lengths(progress=(2, 2)) == schedule.lengths()
    assert schedule.lengths() < wanted


@pytest.mark.parametrize('amount', [dict(rate=0), dict(tpr=0.)])
def test_rate_zero_keeps_prefix_and_patches(amount):
    schedule = PruningSchedule(8, (5, 7), 3, **amount)
    assert schedule.lengths() == [38] * 6
    assert schedule.lengths((2, 3)) == [9] * 6


@pytest.mark.parametrize('given, message', [
    (dict(rate=4, tpr=0.5), 'exactly one of rate, tpr, keep and.*4.*0.5'),
    (dict(tpr=0.5, keep=[9, 8]), r'exactly one of.*0.5.*\[9, 8\]'),
    (dict(), 'exactly one of.*none of them'),
    (dict(rate=-3), 'whole number of patches, 0 or more, got -3'),
    (dict(tpr=1.), r'tpr must be in \[0, 1\), got 1.0'),
    (dict(tpr=-.2), 'tpr must be.*got -0.2'),
    (dict(rate=16), 'rate=16 over 4 modules leaves no patch: 8 x 8 = 64 pat'
     'ches, 0 of 65 tokens would be left.*largest rate here is 15'),
    (dict(tpr=0.99), 'tpr=0.99 over 4 modules.*8 x 8 = 64.* 0 of 65'),
    (dict(keep=[20, 1]), r'keep=\(20, 1\) over 2 modules.*1 of 65 tokens'),
    (dict(rate=[30, 34]), r'rate=\(30, 34\) over 2 modules leaves no patch.*'
     'rates can add up to 62'),
    (dict(rate=[3, -1]), r'0 or more, got \(3, -1\)'),
    (dict(rate=[3, 4], slope=.5), r'one rate, got rate=\(3, 4\)'),
    (dict(rate=4.5, slope=.5), 'whole number of patches.*got 4.5'),
    (dict(keep=40), 'keep must be a list of numbers, got 40'),
    (dict(keep=[40.5, 20]), r'whole lengths, got \(40.5, 20\)'),
    (dict(tpr=[.3, .3]), r'tpr must be a number, got \[0.3, 0.3\]'),
    (dict(rate='12'), "rate must be a number or a list of them, got '12'"),
    (dict(rate=3, modules=[0.5, 1.5]), r'block numbers, got \[0.5, 1.5\]'),
    (dict(rate=3, modules=3), 'list of block numbers, got 3'),
    (dict(rate=3, align=2.), 'align must be 1 or more, got 2.0'),
    (dict(tpr=.5, slope=.5), 'one rate, got tpr=0.5'),
    (dict(rate=4, slope=-1.5), r'slope must be in \[-1, 1\], got -1.5'),
    (dict(keep_rate=.7), r'keep_rate=0.7 needs modules.*\[2, 5, 8\]'),
    (dict(keep_rate=[.7, 0.]), r'in \(0, 1\], got \(0.7, 0.0\)'),
    (dict(keep_rate=1.2, modules=[1]), r'in \(0, 1\], got 1.2'),
    (dict(keep_rate=[.7, .7], modules=[1, 2, 3]), '2 numbers for 3 modules'),
    (dict(keep_rate=.7, modules=[2, 5]), r'modules=\(2, 5\).*from 0 to 4'),
    (dict(keep_rate=[.1, .1]), 'product of all rates must be at least 1 / 64'),
    (dict(keep=[20, 21]), r'keep=\(20, 21\) must not grow.*65'),
    (dict(keep=[66, 21]), r'keep=\(66, 21\) must not grow, and start at 65'),
    (dict(keep=[20, 10], modules=[0]), '2 numbers for 1 modules'),
    (dict(rate=1, modules=[0, 5]), r'modules=\(0, 5\).*from 0 to 4.*6 blo'),
    (dict(rate=1, modules=[-1, 2]), r'modules=\(-1, 2\) must be ascending'),
    (dict(rate=1, modules=[3, 2]), r'modules=\(3, 2\) must be ascending'),
    (dict(rate=1, modules=[2, 2]), r'modules=\(2, 2\) must be ascending'),
    (dict(rate=1, modules=[]), r'modules=\(\) must be ascending'),
    (dict(keep=[30] * 6), r'modules=\(0, 1, 2, 3, 4, 5\).*from 0 to 4'),
    (dict(rate=1, align=0), 'align must be 1 or more, got 0')
])  # yapf: disable
def test_refuses(given, message):
    with pytest.raises(ValueError, match=message):
        PruningSchedule(**SMALL, **given)


def test_too_few_blocks_for_the_default():
    with pytest.raises(ValueError, match='before the one that fuses.*: none '
                       'of 2 blocks with fuse_at=1'):
        PruningSchedule(2, (8, 8), 1, rate=4)
    assert PruningSchedule(2, (8, 8), 1, rate=4, modules=[0]).lengths() == [64]


def test_the_largest_rate_of_the_message_works():
    for num_prefix in (0, 1, 5):
        with pytest.raises(ValueError) as error:
            PruningSchedule(6, (8, 8), num_prefix, rate=20)
        best = int(str(error.value).rsplit(' ', 1)[1].rstrip('.'))
        schedule = PruningSchedule(
            6, (8, 8), num_prefix, rate=best, align=1)
        assert schedule.lengths()[-1] > num_prefix
        with pytest.raises(ValueError):
            PruningSchedule(6, (8, 8), num_prefix, rate=best + 1)
