# Copyright (c) mmcropr contributors.
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from mmcropr.engine import PruningCurriculumHook
from mmcropr.engine.hooks.curriculum_hook import curriculum
from mmcropr.models import CroprViT
from mmcropr.models.checks import find_backbone
from tests.utils import TINY, forget_globals, logged, tiny_digits_config


@pytest.mark.parametrize('rate', [1, 8, 31, 40])
@pytest.mark.parametrize('epochs', [1, 2, 3, 4, 5, 10, 64, 65])
def test_rates_are_those_of_the_paper(epochs, rate):
    ramp = epochs // 2
    wanted = np.floor(np.linspace(0, rate, ramp) + 1e-9).astype(int).tolist()
    wanted += [rate] * (epochs - ramp)
    found = [curriculum(epoch, epochs) for epoch in range(epochs)]
    assert [rate * a // b for a, b in found] == wanted


def test_share():
    assert curriculum(0, 100, share=0.) == (1, 1)
    assert curriculum(99, 100, share=1.) == (99, 99)
    with pytest.raises(ValueError, match='share'):
        PruningCurriculumHook(share=1.5)


def test_keep_rate_ramp_of_evit():
    """rate = base + (1 - base) (1 + cos(pi t / T)) / 2 after the beginning."""
    model = CroprViT(TINY, img_size=160, reducer=dict(
        type='mmcropr.EViT', keep_rate=0.5, modules=[0, 1], align=1)).train()
    for step in range(100):
        model.set_progress(
            curriculum(step, 100, share=0.4, begin=0.2, curve='cosine'))
        t = min(max(step - 20, 0), 40)
        rate = 0.5 + 0.5 * (1 + np.cos(np.pi * t / 40)) / 2
        exact = [100 * rate, 100 * rate**2]
        assert all(abs(n - 1 - e) <= 1 and n - 1 <= e + 1e-3
                   for n, e in zip(model.lengths(), exact)), step
    assert model.lengths() == [51, 26]
    assert curriculum(5, 100, share=0., begin=0.1) == (0, 1)
    assert curriculum(10, 100, share=0., begin=0.1) == (1, 1)


@pytest.mark.parametrize('share, begin', [(.9, .1), (.8, .2), (.7, .3)])
def test_ramps_that_fill_a_run(share, begin):
    PruningCurriculumHook(share=share, begin=begin)
    assert curriculum(99, 100, share, begin)[0] > 0
    assert curriculum(100, 100, share, begin) == (1, 1)


@pytest.mark.parametrize('options, message', [
    (dict(begin=-.1), 'begin=-0.1'),
    (dict(begin=.6), 'begin=0.6 and share=0.5'),
    (dict(curve='step'), "one of linear, cosine, got 'step'"),
    (dict(vary_from=1.), r'vary_from must be in \[0, 1\), .* got 1.0'),
    (dict(vary_from=.8, levels=4), 'none of 4 levels: give more levels'),
    (dict(vary_from=-.1), 'vary_from must be .* got -0.1'),
])
def test_ramps_that_do_not_exist(options, message):
    with pytest.raises(ValueError, match=message):
        PruningCurriculumHook(**options)


class Spy(Hook):
    """Writes down the lengths that every training iteration uses."""
    priority = 'LOWEST'

    def __init__(self) -> None:
        self.lengths = []

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.lengths.append(find_backbone(runner.model).lengths()[-1])


def run(cfg) -> list:
    forget_globals()
    runner, spy = Runner.from_cfg(cfg), Spy()
    runner.register_hook(spy)
    runner.train()
    return spy.lengths


def test_by_epoch_and_resumed(digits, tmp_path):
    """A run that stops after 3 of 6 epochs and goes on is the same run, the
    queries drawn included."""
    options = dict(
        model__auxiliary_head__query_share=.5,
        train_cfg__max_epochs=6,
        train_cfg__val_interval=6,
        param_scheduler__1__end=6)
    whole = run(tiny_digits_config(digits, tmp_path / 'whole', **options))
    # rates 0, 6, 12, 12, ... over 4 modules, aligned to 8
    assert whole == [65] * 4 + [40] * 4 + [16] * 16

    class Stop(Exception):
        pass

    class Killer(Hook):

        def before_train_epoch(self, runner) -> None:
            if runner.epoch == 3:
                raise Stop

    forget_globals()
    cfg = tiny_digits_config(digits, tmp_path / 'parts', **options)
    runner, spy = Runner.from_cfg(cfg), Spy()
    runner.register_hook(Killer())
    runner.register_hook(spy)
    with pytest.raises(Stop):
        runner.train()
    cfg.resume = True
    cfg.experiment_name = 'resumed'
    assert spy.lengths + run(cfg) == whole
    first, second = (logged(tmp_path / name) for name in ('whole', 'parts'))
    assert len(first) >= 24
    np.testing.assert_allclose(second, first, rtol=1e-5)


def test_by_iteration(digits, tmp_path):
    cfg = tiny_digits_config(digits, tmp_path)
    cfg.train_cfg = dict(
        type='IterBasedTrainLoop', max_iters=10, val_interval=10)
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    cfg.param_scheduler, cfg.log_processor.by_epoch = None, False
    cfg.default_hooks.checkpoint.by_epoch = False
    # floor(12 * i / 4) for 5 iterations, then 12
    assert run(cfg) == [65, 56, 40, 32, 16] + [16] * 5


def fake_runner(model: nn.Module) -> SimpleNamespace:
    loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    return SimpleNamespace(
        model=model, train_loop=loop, epoch=1, max_epochs=6,
        hooks=[])


def test_unwraps_model_wrappers():
    wrapper = MMDistributedDataParallel.__new__(MMDistributedDataParallel)
    nn.Module.__init__(wrapper)
    backbone = CroprViT(
        TINY, img_size=64, reducer=dict(type='mmcropr.Random', rate=4))
    wrapper.module = nn.Sequential(backbone)
    hook = PruningCurriculumHook()
    hook.before_train_iter(fake_runner(wrapper), 0)
    assert backbone.train().lengths() == [16, 16]  # 16 - 2 (i + 1), aligned
    assert backbone.progress == (1, 2)


def test_checks_before_training(digits, tmp_path):
    cfg = tiny_digits_config(digits, tmp_path / 'a')
    cfg.model.auxiliary_head.num_modules = 5
    with pytest.raises(ValueError, match='num_modules=5.* 4;.*num_modules=4'):
        Runner.from_cfg(cfg).train()
    cfg = tiny_digits_config(digits, tmp_path / 'c')
    cfg.model.backbone.reducer.num_queries = 1
    with pytest.raises(ValueError, match='num_queries=1, .*num_queries=64'):
        Runner.from_cfg(cfg).train()
    cfg = tiny_digits_config(digits, tmp_path / 'b')
    cfg.model.auxiliary_head = None
    with pytest.raises(ValueError, match='auxiliary_head=.*num_modules=4'):
        Runner.from_cfg(cfg).train()


@pytest.mark.parametrize('change, message', [
    ({'model.auxiliary_head.in_channels': 64}, 'in_channels=64, .*=32'),
    ({'model.auxiliary_head.num_classes': 5}, 'num_classes=5, .* 11'),
    ({'model.neck': None}, 'LLFNeck'),
    ({'model.backbone.reducer': None}, 'remove this head'),
])  # yapf: disable
def test_parts_that_do_not_fit(digits, tmp_path, change, message):
    cfg = tiny_digits_config(digits, tmp_path)
    cfg.merge_from_dict(change)
    with pytest.raises(ValueError, match=message):
        Runner.from_cfg(cfg).train()


def test_by_epoch_needs_epochs(digits, tmp_path):
    cfg = tiny_digits_config(digits, tmp_path)
    cfg.train_cfg = dict(
        type='IterBasedTrainLoop', max_iters=4, val_interval=4)
    cfg.param_scheduler = None
    cfg.custom_hooks = [
        dict(type='mmcropr.PruningCurriculumHook', by_epoch=True)
    ]
    with pytest.raises(ValueError, match='IterBasedTrainLoop counts iter'):
        Runner.from_cfg(cfg).train()


def test_says_what_it_does_not_raise():
    """The reducer with weights is named, not one that does nothing."""
    said = []
    model = CroprViT(TINY, img_size=64, reducer=dict(
        type='mmcropr.SiT', rate=[0, 6], align=1))
    runner = fake_runner(model)
    runner.logger = SimpleNamespace(info=said.append)
    PruningCurriculumHook(share=0).before_train(runner)
    assert not said
    PruningCurriculumHook().before_train(runner)
    assert said[0].startswith('SiT has weights that learn')


def test_two_hooks_would_set_one_rate():
    runner = fake_runner(CroprViT(TINY, img_size=64))
    runner.hooks = [PruningCurriculumHook(), PruningCurriculumHook()]
    with pytest.raises(ValueError, match='two PruningCurriculumHooks'):
        runner.hooks[0].before_train(runner)


def test_a_model_without_a_backbone_of_ours():
    with pytest.raises(ValueError, match='Linear has no mmcropr.CroprViT'):
        PruningCurriculumHook().before_train(fake_runner(nn.Linear(1, 1)))


def test_levels_bound_the_number_of_rates():
    model = CroprViT(TINY, img_size=64, reducer=dict(
        type='mmcropr.Random', rate=4, align=1))
    runner = fake_runner(model)
    hook, found = PruningCurriculumHook(share=1., levels=3), []
    runner.max_epochs = 20
    for runner.epoch in range(20):
        hook.before_train_iter(runner, 0)
        found.append(model.progress)
    assert sorted(set(found)) == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert found == sorted(found) and found[-1] == (3, 3)
    with pytest.raises(ValueError, match='levels must be 1 or more, got 0'):
        PruningCurriculumHook(levels=0)


def test_rates_that_vary():
    """Only once the rate has risen, between the two ends, evenly, and the
    same in every process that is at that iteration."""
    model = CroprViT(TINY, img_size=64, reducer=dict(
        type='mmcropr.Random', rate=7, align=1)).train()
    runner = fake_runner(model)
    runner.max_epochs = 4

    def left(begin=0, **options) -> list:
        """Tokens behind the last module in every iteration."""
        hook, found = PruningCurriculumHook(**options), []
        for runner.iter in range(begin, 400):
            runner.epoch = runner.iter // 100
            hook.before_train_iter(runner, 0)
            found.append(model.lengths(training=True)[-1])
        return found

    none, full = 17, 2
    found = left(vary_from=.5)
    assert found[:100] == [none] * 100 and left()[100:] == [full] * 300
    for first in (100, 250):  # no state: a resumed run has the same
        assert left(first, vary_from=.5) == found[first:]
    drawn = found[100:]
    # At 5 to 10 tenths of the rate
    assert set(drawn) == {10, 8, 6, 4, full}
    assert 30 < drawn.count(full) < 70, 'one of six'
    drawn = left(share=0., vary_from=0., levels=2)
    assert set(drawn) == {none, 10, full}
    assert min(map(drawn.count, set(drawn))) > 100


def test_a_rate_that_cannot_vary():
    runner = fake_runner(CroprViT(TINY, img_size=64, reducer=dict(
        type='mmcropr.SiT', rate=[0, 6], align=1)))
    with pytest.raises(ValueError, match='SiT has .* leave vary_from out'):
        PruningCurriculumHook(share=0., vary_from=0.).before_train(runner)
