# Copyright (c) mmcropr contributors.
"""Several reducers in one model: schedules, heads, bad input. Every pair is
in test_pairs.py."""
from types import SimpleNamespace

import pytest
import torch
from mmengine.structures import InstanceData
from torch import nn

from mmcropr.models import Cropr, CroprViT
from mmcropr.models.checks import check_model
from mmcropr.models.heads import AuxiliaryHead, CroprMultiLabelHead
from mmcropr.models.reducers import CombinedSchedule, PruningSchedule
from tests.utils import TINY, make_state

SIZES = dict(depth=12, grid=(16, 16), num_prefix=1)


def combined(*options: dict) -> CombinedSchedule:
    return CombinedSchedule([PruningSchedule(**SIZES, **o) for o in options])


def test_rates_go_on_from_what_is_left():
    schedule = combined(
        dict(rate=8, modules=[0, 1]), dict(rate=16, modules=[4, 6]))
    assert schedule.modules == (0, 1, 4, 6)
    assert schedule.lengths() == [248, 240, 224, 208]
    assert schedule.lengths((32, 32)) == [992, 960, 896, 832]
    assert schedule.lengths(progress=(1, 2)) == [256, 248, 240, 232]
    swapped = combined(
        dict(rate=16, modules=[4, 6]), dict(rate=8, modules=[0, 1]))
    assert swapped.lengths() == schedule.lengths()


def test_alternating_and_one_schedule_in_two_parts():
    """Half the blocks each, at the same rate, is one schedule."""
    whole = PruningSchedule(**SIZES, rate=12, align=1)
    parts = combined(
        dict(rate=12, modules=[0, 2, 4, 6, 8], align=1),
        dict(rate=12, modules=[1, 3, 5, 7, 9], align=1))
    assert parts.lengths() == whole.lengths()
    assert parts.lengths((9, 13)) == whole.lengths((9, 13))
    assert parts.lengths(progress=(3, 7)) == whole.lengths(progress=(3, 7))


def test_keep_and_keep_rate():
    schedule = combined(
        dict(keep_rate=0.5, modules=[2], align=1),
        dict(rate=10, modules=[3, 4], align=1),
        dict(keep=[60, 40], modules=[6, 7]),
        dict(keep_rate=0.5, modules=[9], align=1))
    # 128 patches and the prefix token; 10 less each; as given; half of 39
    assert schedule.lengths() == [129, 119, 109, 60, 40, 20]
    assert schedule.describe().startswith('6 modules after blocks 2..9')


def test_refused_schedules():
    with pytest.raises(ValueError, match=r'blocks \[1\] have modules of two'):
        combined(dict(rate=8, modules=[0, 1]), dict(rate=8, modules=[1]))
    with pytest.raises(ValueError, match='rate=100 and rate=155 together'):
        combined(dict(rate=100, modules=[0]), dict(rate=155, modules=[1]))


def hybrid(*names: str, **options) -> CroprViT:
    return CroprViT(
        TINY, img_size=64, reducer=[
            dict(type=f'mmcropr.{name}', keep=[16 - 4 * i], modules=[i],
                 align=1) for i, name in enumerate(names)], **options)


def test_heads_count_the_modules_that_learn():
    model = hybrid('ToMe', 'Cropr').train()
    sizes = AuxiliaryHead.sizes_of(model)
    assert sizes == dict(in_channels=32, num_modules=1, num_heads=None)
    assert len(model(torch.rand(2, 3, 64, 64)).state.records) == 1
    with pytest.raises(ValueError, match='Cropr learns .*num_modules=1'):
        check_model(nn.ModuleDict(dict(backbone=model)))


def test_rate_rises_only_where_all_can():
    assert hybrid('ToMe', 'Cropr').follows_progress
    model = hybrid('SiT', 'Cropr')
    assert not model.follows_progress
    model.set_progress((0, 1))
    assert model.train().lengths() == model.eval().lengths()


@pytest.mark.parametrize('first', ['SiT', 'PatchMerger', 'Sinkhorn'])
def test_a_fixed_number_before_a_schedule(first):
    """On larger images the second is asked for more than the first left."""
    model = CroprViT(TINY, img_size=64, out_type='tokens', reducer=[
        dict(type=f'mmcropr.{first}', keep=[12], modules=[0], align=1),
        dict(type='mmcropr.Cropr', keep=[8], modules=[1], align=1)]).eval()
    for size in (64, 96, 160, 32):
        with torch.no_grad():
            state = model(torch.rand(1, 3, size, size))
        assert state.length == model.lengths(state.grid)[-1]


def test_keep_must_not_grow_in_a_hybrid():
    with pytest.raises(ValueError, match='keep asks for 200 tokens after '
                       'block 3, and 156 are left before it'):
        combined(dict(rate=50, modules=[0, 1]), dict(keep=[200], modules=[3]))


@pytest.mark.parametrize('num_heads', [None, 2])
def test_queries_do_not_read_places_that_fill_up(num_heads):
    """As ATS leaves them."""
    state, valid = make_state(), torch.tensor([[True, False, True]] * 2)
    state.sample(torch.arange(3).expand(2, -1), valid)
    Cropr(4, num_heads=num_heads).train()(state, state.length - 1)
    weights = state.records[0].read()[0].softmax(-1).flatten(1, -2)
    assert (weights[..., 3] == 0).all()
    assert (weights[..., [0, 1, 2, 4]] > 0).all()
    assert state.index.tolist() == [[0, 2]] * 2, 'they leave first'


def test_every_learner_has_the_heads_of_the_auxiliary_head():
    model = CroprViT(TINY, img_size=64, reducer=[
        dict(type='mmcropr.Cropr', keep=[12], modules=[0], align=1),
        dict(type='mmcropr.Cropr', keep=[8], modules=[1], align=1,
             num_heads=2)])
    with pytest.raises(ValueError, match='num_heads=None, the reducers have '
                       '2'):
        CroprMultiLabelHead(32, 3, 2).check_backbone(model)


def test_several_heads_and_labels():
    model = CroprViT(TINY, img_size=64, reducer=dict(
        type='mmcropr.Cropr', keep=[12], align=1, num_heads=2)).train()
    head = CroprMultiLabelHead(32, 3, 1, num_heads=2)
    head.check_backbone(model)
    instances = InstanceData(labels=torch.tensor([1]))
    samples = [SimpleNamespace(gt_instances=instances)]
    losses = head.loss(model(torch.rand(1, 3, 64, 64)), samples)
    assert losses['module0.loss_bce'].isfinite()


def test_momentum_models_are_checked():
    """A model that holds a second backbone beside its own."""
    model, twin = hybrid('ToMe', 'Random'), hybrid('ToMe', 'Random')
    check_model(nn.ModuleDict(dict(
        backbone=model, encoder=nn.ModuleDict(dict(backbone=twin)))))
