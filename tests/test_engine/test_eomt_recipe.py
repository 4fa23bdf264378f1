# Copyright (c) mmcropr contributors.
"""Learning rates of EoMT, against the numbers of its authors."""
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import nn

from mmcropr.registry import PARAM_SCHEDULERS
from tests.eomt import convert, detector, detector_cfg
from tests.utils import load_vectors


@pytest.fixture(scope='module')
def reference():
    return load_vectors('eomt')


def wrap(model: nn.Module, lr: float, **paramwise):
    return build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=lr, weight_decay=.05),
            constructor='mmcropr.EoMTOptimWrapperConstructor',
            paramwise_cfg=paramwise))  # yapf: disable


@pytest.mark.parametrize('number', range(3))
def test_rate_of_every_parameter(reference, number):
    cfg, vectors = reference
    example = cfg['lr_examples'][number]
    model = detector(cfg, vectors)
    wrapper = wrap(
        model, example['lr'], layer_decay_rate=example['llrd'],
        full_rate_blocks=0 if example['llrd_l2_enabled'] else 3)
    rates = {param: group['lr'] for group in wrapper.param_groups
             for param in group['params']}
    parameters = dict(model.named_parameters())
    wanted = {
        convert({'q.weight': torch.zeros(1), name: torch.zeros(1)})[0].popitem(
        )[0]: rate for name, rate in example['base_lr'].items()}
    assert set(wanted) == set(parameters)
    for name, rate in wanted.items():
        assert rates[parameters[name]] == pytest.approx(rate), name
    assert {g['weight_decay'] for g in wrapper.param_groups} == {.05}


def test_reducers_are_new_parts(reference):
    init_default_scope('mmdet')
    model = MODELS.build(detector_cfg(
        reference[0], reducer=dict(type='mmcropr.Cropr', rate=5, align=1)))
    wrapper = wrap(model, 1., layer_decay_rate=.8)
    late = {param for group in wrapper.param_groups
            if group.get('pretrained') for param in group['params']}
    assert late == set(model.backbone.vit.parameters())


def schedule(optimizer, end, *warm_up, **options):
    return PARAM_SCHEDULERS.build(
        dict(type='TwoStagePolyLR', optimizer=optimizer, end=end,
             warm_up_new=warm_up[0], warm_up_pretrained=warm_up[1],
             **{'by_epoch': False, **options}))  # yapf: disable


def two_groups():
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    return torch.optim.SGD(
        [dict(params=parameters[:1], lr=1., pretrained=True),
         dict(params=parameters[1:], lr=2.)], lr=1.)  # yapf: disable


def test_schedule(reference):
    cfg, vectors = reference
    settings = cfg['lr_schedule']
    optimizer = two_groups()
    scheduler = schedule(optimizer, settings['total_steps'],
                         *settings['warmup_steps'])
    found = []
    for _ in range(settings['total_steps']):
        found.append([group['lr'] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    found = torch.tensor(found)
    wanted = torch.stack([vectors['lr.factor_backbone'],
                          2 * vectors['lr.factor_other']], dim=1)
    inside = vectors['lr.step'] < settings['total_steps']
    assert inside.sum() > 10
    assert torch.allclose(
        found[vectors['lr.step'][inside]], wanted[inside].float(), atol=1e-6)


def test_resumed():
    whole, half = two_groups(), two_groups()
    long, short = schedule(whole, 20, 3, 4), schedule(half, 20, 3, 4)
    for step in range(10):
        for optimizer, scheduler in ((whole, long), (half, short)):
            optimizer.step()
            scheduler.step()
        if step == 4:
            states = half.state_dict(), short.state_dict()
            half = two_groups()
            short = schedule(half, 20, 3, 4)
            half.load_state_dict(states[0])
            short.load_state_dict(states[1])
    assert [g['lr'] for g in whole.param_groups] == [
        g['lr'] for g in half.param_groups] != [1., 2.]


def test_refuses():
    with pytest.raises(ValueError, match='warm_up_new=5 .* fewer than the 10'):
        schedule(two_groups(), 10, 5, 5)
    with pytest.raises(ValueError, match='set by_epoch=False'):
        schedule(two_groups(), 10, 1, 1, by_epoch=True)
    with pytest.raises(ValueError, match='EoMTOptimWrapperConstructor'):
        schedule(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.), 10, 1,
                 1)
