# Copyright (c) mmcropr contributors.
"""Local losses in half precision, and the scale of their gradients."""
import pytest
import torch
from torch import nn

from mmcropr.models.heads.local_losses import GradScale
from tests.test_models.test_heads.test_local_losses import (Learner, both,
                                                            gradients, same)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    if dtype == torch.float16 and not hasattr(torch, 'get_autocast_dtype'):
        pytest.skip('this torch has no autocast to float16 on the CPU')
    (losses, wanted), (local, found) = both(
        context=torch.autocast('cpu', dtype))
    same(losses, local, rtol=0, atol=0)
    for key, value in wanted.items():
        gap = (found[key] - value).norm() / value.norm()
        assert gap < (1e-6 if dtype == torch.bfloat16 else 5e-3), key


def test_gradients_in_float16_do_not_underflow():
    """Each below 6e-8, the least that float16 knows."""
    if not hasattr(torch, 'get_autocast_dtype'):
        pytest.skip('this torch has no autocast to float16 on the CPU')
    loss = dict(type='mmseg.CrossEntropyLoss', loss_weight=1e-6)
    plain = Learner(local=False, loss_decode=loss).train()
    sum(plain().values()).backward()
    for local in (True, False):
        model = Learner(local=local, loss_decode=loss).train()
        with torch.autocast('cpu', torch.float16):
            losses = model()
        # The optimiser's scale comes too late for them
        factor = 1024 if local else 1
        (factor * sum(losses.values())).backward()
        gaps = [(gradients(model)[key] / factor - value).norm() / value.norm()
                for key, value in gradients(plain).items()]
        assert max(gaps) < 0.05 if local else max(gaps) > 0.5


def test_scale_falls_after_an_overflow_and_rises_again():
    scale = GradScale(start=4., most=8., interval=2)
    bad, good = torch.tensor([1., torch.inf]), torch.ones(2)
    values = []
    for grads in (bad, bad, good, bad, good, good, good, good, good, good,
                  good, good, bad, bad, bad, bad, bad):
        for _ in range(3):  # modules of one iteration
            scale.see([good, grads])
        scale.update()
        values.append(float(scale.value))
    assert values == [2., 1., 1., 1., 1., 2., 2., 4., 4., 8., 8., 8., 4., 2.,
                      1., 1., 1.]
    scale.update()
    assert scale.value == 1. and not scale.largest, 'nothing seen'
    assert not scale.state_dict()


def test_both_scales_find_a_balance():
    """Gradients of many modules overflow from 2 ** 15 on, in the optimiser's
    scaler from 2 ** 16 on."""
    if not hasattr(torch.amp, 'GradScaler'):
        pytest.skip('this torch has no scaler for the CPU')
    weight = nn.Parameter(torch.zeros(22))
    outer = torch.amp.GradScaler('cpu', growth_interval=20)
    scale = GradScale(interval=40)
    optimizer, skipped = torch.optim.SGD([weight], lr=0.), []

    def grads_of(module):
        grad = torch.zeros(22)
        grad[module] = torch.inf if scale.value >= 2**15 else 1.
        return [grad]

    for _ in range(2000):
        for module in range(22):
            scale.see(grads_of(module))
        total = sum(grads_of(module)[0] for module in range(22))
        weight.grad = total * (
            torch.inf if outer.get_scale() >= 2**16 else 1.)
        before = outer.get_scale()
        outer.scale(torch.tensor(1.))  # makes it, the first time
        outer.unscale_(optimizer)
        outer.step(optimizer)
        outer.update()
        scale.update()
        skipped.append(outer.get_scale() < before)
    assert outer.get_scale() >= 2**13
    assert scale.value >= 2**13
    assert sum(skipped[1000:]) < 100


def test_overflow_reaches_the_gradient_and_not_the_next_step():
    if not hasattr(torch, 'get_autocast_dtype'):
        pytest.skip('this torch has no autocast to float16 on the CPU')
    model = Learner().train()
    model.head.grad_scale.value.fill_(2.**40)
    infinite = []
    for _ in range(40):
        model.zero_grad()
        with torch.autocast('cpu', torch.float16):
            losses = model()
        sum(losses.values()).backward()
        infinite.append(not all(
            g.isfinite().all() for g in gradients(model).values()))
    assert infinite[0] and not infinite[-1]
