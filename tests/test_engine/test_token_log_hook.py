# Copyright (c) mmcropr contributors.
from types import SimpleNamespace

import pytest
from mmengine.logging import MessageHub
from torch import nn

from mmcropr.engine.hooks import TokenLogHook
from mmcropr.models import CroprViT
from mmcropr.models.work import encoder_work
from tests.utils import TINY


def make_runner(model: nn.Module) -> tuple:
    said = []
    return said, SimpleNamespace(
        model=model,
        message_hub=MessageHub('tokens'),
        logger=SimpleNamespace(info=said.append))


def test_says_tokens_now_and_at_the_end():
    model = CroprViT(
        TINY, img_size=64, reducer=dict(type='mmcropr.Random', rate=4)).eval()
    model.set_progress((1, 2))
    (said, runner), hook = make_runner(model), TokenLogHook()
    hook.before_train(runner)
    rows = [line.split() for line in said[0].splitlines()]
    assert '(17 at first, 4 x 4 patches)' in said[0]
    assert rows[1:] == [['behind', 'block', '0', '1'], ['now', '16', '16'],
                        ['at', 'full', 'rate', '16', '8']]
    hook.before_train_iter(runner, 0)
    scalars = runner.message_hub.log_scalars
    assert scalars['train/pruning_progress'].current() == 0.5
    assert scalars['train/tokens_left'].current() == 16


def test_shares_go_to_the_visualizer_once():
    model = CroprViT(
        TINY, img_size=64, reducer=dict(type='mmcropr.Random', rate=4))
    (_, runner), hook = make_runner(model), TokenLogHook()
    shown = []
    runner.visualizer = SimpleNamespace(
        add_scalars=lambda scalars, step: shown.append((step, scalars)))
    hook.before_train(runner)
    for runner.iter, done in enumerate((0, 0, 2, 2, 0, 2)):
        model.set_progress((done, 2))
        hook.before_train_iter(runner, 0)
    first, second = 'tokens/kept_behind_block0', 'tokens/kept_behind_block1'
    assert shown == [(1, {first: 1., second: 1.}),
                     (3, {first: 15 / 16, second: 7 / 16})]


def test_work_of_every_block():
    model = nn.Sequential()
    model.backbone = CroprViT(
        TINY, img_size=64, reducer=dict(type='mmcropr.Random', rate=4))
    (said, runner), hook = make_runner(model), TokenLogHook()
    hook.before_train(runner)
    rows = [line.split() for line in said[1].splitlines()]
    assert rows[1] == ['block', '0', '1', '2', '3']
    assert rows[2] == ['tokens', '17', '16', '8', '17']
    work = encoder_work(model.backbone)
    assert f'at most {work.ratio:.2f} times as fast' in said[1]
    assert 1 < work.ratio < 1.5


@pytest.mark.parametrize('model, lines', [
    (nn.Linear(1, 1), 0), (CroprViT(TINY, img_size=64), 1)])
def test_nothing_to_say(model, lines):
    (said, runner), hook = make_runner(model), TokenLogHook()
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)
    assert len(said) == lines
    assert not {'train/tokens_left'} & set(runner.message_hub.log_scalars)
