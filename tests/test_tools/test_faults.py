# Copyright (c) mmcropr contributors.
"""Faults of a run, as users meet them: each is said, none goes unseen."""
import re
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmcropr.utils.checkpoint import check_checkpoint, check_init, check_start
from tests.utils import (run_main, run_tool, tiny_classifier_config,
                         tiny_detector_config, tiny_digits_config)


@pytest.fixture
def config(digits, tmp_path) -> Path:
    file = tmp_path / 'tiny.py'
    tiny_digits_config(digits, tmp_path / 'run').dump(file)
    return file


@pytest.mark.parametrize('make, gpus', [
    (tiny_digits_config, 1), (tiny_detector_config, 2),
    (tiny_classifier_config, 1)])
def test_a_loss_that_is_not_finite_ends_training(digits, tmp_path, make,
                                                 gpus):
    file = tmp_path / 'tiny.py'
    cfg = make(digits, tmp_path / 'run')
    cfg.optim_wrapper = dict(
        type='OptimWrapper', optimizer=dict(type='SGD', lr=1e38))
    cfg.param_scheduler = None
    cfg.dump(file)
    done = run_main('train.py', file) if gpus == 1 else run_tool(
        sys.executable, 'tools/train.py', file, ranks=gpus)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines()
              if line.startswith('error: not finite in iteration ')]
    assert errors and ('loss' in errors[0].split(': ')[2])
    assert not list((tmp_path / 'run').glob('*.pth'))


def test_losses_of_a_config_of_a_host(digits, tmp_path):
    """As configs on mmdet's runtime, without the hooks of ours."""
    cfg = tiny_digits_config(digits, tmp_path / 'run')
    del cfg.default_hooks['finite_loss']
    cfg.optim_wrapper = dict(
        type='OptimWrapper', optimizer=dict(type='SGD', lr=1e38))
    cfg.param_scheduler = None
    cfg.dump(tmp_path / 'tiny.py')
    done = run_main('train.py', tmp_path / 'tiny.py')
    assert done.returncode == 1
    assert 'error: not finite in iteration ' in done.stderr
    assert not list((tmp_path / 'run').glob('*.pth'))


@pytest.mark.parametrize('option, message', [
    ('model.decode_head.type=Foo', 'Foo is not in the mmseg::model registry'),
    ('model.backbone.reducer.rate=-1', 'error: .*rate'),
    ('optim_wrapper.optimizer.type=Foo', 'Error: '),
])
def test_errors_are_one_line(config, option, message):
    args = 'train.py', config, '--cfg-options', option
    done = run_main(*args)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith('error: ')
    assert re.search(message, last) and 'Traceback' not in done.stderr
    with pytest.raises(Exception, match=message.split(': ')[-1] or None):
        run_main(*args[:2], '--debug', *args[2:])


def test_an_error_is_the_last_line_of_a_run(config):
    args = (sys.executable, 'tools/train.py', config, '--cfg-options',
            'model.backbone.reducer.rate=-1')
    done = run_tool(*args, fresh=True)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith('error: ')


def test_weights_to_start_from_must_fit(config, digits, tmp_path):
    init_default_scope('mmseg')
    cfg = tiny_digits_config(digits, tmp_path).model
    state = MODELS.build(cfg).state_dict()
    file = str(tmp_path / 'x.pth')
    few = {k: v for k, v in state.items() if 'blocks.0' in k}
    for content, fits in ((state, True), (few, False)):
        torch.save(dict(state_dict=content), file)
        cfg.init_cfg = dict(type='Pretrained', checkpoint=file)
        cfg.backbone.init_cfg = dict(
            type='Pretrained', checkpoint=file, prefix='backbone')
        for model in (cfg, {**cfg, 'init_cfg': None}):
            model = MODELS.build(model)
            for check in (partial(check_init, model),
                          partial(check_start, model, file)):
                if fits:
                    check()
                    continue
                with pytest.raises(ValueError, match='would start at random'):
                    check()


def test_other_image_size_is_resampled(digits, tmp_path):
    init_default_scope('mmseg')
    cfg = tiny_digits_config(digits, tmp_path).model
    cfg.backbone.arch.use_abs_pos_emb = True
    model = MODELS.build(cfg)
    torch.save(model.state_dict(), tmp_path / 'x.pth')
    cfg.backbone.img_size = 96
    larger = MODELS.build(cfg)
    own = larger.state_dict()['backbone.vit.pos_embed'].shape
    assert own != model.state_dict()['backbone.vit.pos_embed'].shape
    check_checkpoint(larger, str(tmp_path / 'x.pth'))
    larger.load_state_dict(torch.load(tmp_path / 'x.pth'))


def test_resuming(config, tmp_path):
    """Cut short, continued with a lost note, then finished; a changed config
    is not passed off as trained."""
    run, resume = tmp_path / 'run', ('--resume', '--cfg-options')
    train = sys.executable, 'tools/train.py', config
    assert run_main('train.py', config, '--cfg-options',
                    'train_cfg.max_epochs=1',
                    'param_scheduler.1.end=1').returncode == 0
    (run / 'last_checkpoint').write_text('')
    done = run_tool(*train, *resume, 'optim_wrapper.optimizer.lr=0.1')
    assert done.returncode == 0, done.stderr[-2000:]
    said = done.stdout + done.stderr
    assert 'is empty or stale' in said and 'resumed epoch: 1, iter: 4' in said
    assert 'lr: 0.0' in said and '-> 0.1' in said
    assert 'max_epochs: 1 -> 2' in said
    done = run_main('train.py', config, *resume,
                    'model.backbone.reducer.rate=10')
    assert done.returncode == 1
    assert 'nothing is left to train' in done.stderr.splitlines()[-1]
    assert 'rate: 12 -> 10' in done.stderr.splitlines()[-1]
    (run / 'epoch_2.pth').write_bytes(b'PK truncated')
    done = run_main('train.py', config, '--resume')
    assert done.returncode == 1
    assert 'cannot be read as a checkpoint' in done.stderr.splitlines()[-1]


def test_start_of_the_log_is_short(config, tmp_path):
    done = run_tool(sys.executable, 'tools/train.py', config)
    said = done.stdout + done.stderr
    start = said[:said.index('Epoch(train)')].splitlines()
    assert len(start) < 20, said
    assert 'at full rate' in said and 'tokens_left: 65' in said
    for noise in ('OneDL', 'avg_non_ignore', 'draw is False', 'None'):
        assert noise not in '\n'.join(start)
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert 'Config:' in log and 'System environment' in log
