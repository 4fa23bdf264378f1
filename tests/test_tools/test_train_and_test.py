# Copyright (c) mmcropr contributors.
"""The command line tools, as users start them."""
import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmcropr.utils.checkpoint import check_checkpoint
from tests.utils import (ROOT, free_port, load_tool, logged, run_main,
                         run_tool, tiny_classifier_config,
                         tiny_detector_config, tiny_digits_config)


@pytest.fixture
def config(digits, tmp_path) -> Path:
    file = tmp_path / 'tiny.py'
    tiny_digits_config(digits, tmp_path / 'run').dump(file)
    return file


def test_train_then_test(config, tmp_path):
    done = run_tool(sys.executable, 'tools/train.py', config, fresh=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(logged(tmp_path / 'run')) == 8
    checkpoint = tmp_path / 'run/epoch_2.pth'
    done = run_tool(
        sys.executable, 'tools/test.py', config, checkpoint, '--work-dir',
        tmp_path / 'test', '--show-dir', tmp_path / 'show', '--out',
        tmp_path / 'out.pkl', fresh=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'mIoU' in done.stdout + done.stderr
    assert len(list((tmp_path / 'test/pruning_maps').glob('*.png'))) == 4
    assert len(list((tmp_path / 'show').rglob('*.png'))) == 4
    assert (tmp_path / 'out.pkl').stat().st_size > 0


@pytest.mark.parametrize('missing, hook, message', [
    ('default_hooks', 'SegVisualizationHook', 'of the config has none'),
    ('visualizer', 'SegVisualizationHook', "need .*'SegLocalVisualizer'"),
    ('visualizer', 'DetVisualizationHook', "need .*'DetLocalVisualizer'"),
    ('visualizer', 'VisualizationHook', "need .*'UniversalVisualizer'")])
def test_pictures_that_nothing_draws(config, missing, hook, message):
    cfg, tool = Config.fromfile(config), load_tool('test.py')
    cfg.setdefault('default_hooks', {})['visualization'] = dict(type=hook)
    cfg.pop(missing, None)
    for options in (dict(show=False, show_dir='x'),
                    dict(show=True, show_dir=None, wait_time=1)):
        with pytest.raises(ValueError, match=message):
            tool.set_visualization(cfg, argparse.Namespace(**options))


def test_train_then_test_a_detector(digits, tmp_path):
    file = tmp_path / 'tiny.py'
    tiny_detector_config(digits, tmp_path / 'run').dump(file)
    done = run_main('train.py', file)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(logged(tmp_path / 'run', 'aux.module1.loss_bce')) == 8
    done = run_tool(
        sys.executable, 'tools/test.py', file, tmp_path / 'run/epoch_2.pth',
        '--work-dir', tmp_path / 'test', '--show-dir', 'show')
    assert done.returncode == 0, done.stderr[-2000:]
    for kind in ('bbox', 'segm'):
        assert f'coco/{kind}_mAP: ' in done.stdout + done.stderr
    assert len(list((tmp_path / 'test/pruning_maps').glob('*.png'))) == 4
    assert len(list((tmp_path / 'test').rglob('show/*.png'))) == 4


def test_train_then_test_a_classifier(digits, tmp_path):
    file = tmp_path / 'tiny.py'
    tiny_classifier_config(digits, tmp_path / 'run').dump(file)
    done = run_main('train.py', file)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(logged(tmp_path / 'run', 'aux.module1.loss')) == 8
    done = run_tool(
        sys.executable, 'tools/test.py', file, tmp_path / 'run/epoch_2.pth',
        '--work-dir', tmp_path / 'test', '--show-dir', tmp_path / 'show')
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'accuracy/top1: ' in done.stdout + done.stderr
    assert len(list((tmp_path / 'test/pruning_maps').glob('*.png'))) == 4
    assert len(list((tmp_path / 'show').rglob('*.png'))) == 4


def test_wrapped_checkpoint_for_the_plain_detector(digits, tmp_path):
    init_default_scope('mmdet')
    cfg = tiny_detector_config(digits, tmp_path).model
    torch.save(MODELS.build(cfg).state_dict(), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='strip_auxiliary.py'):
        check_checkpoint(MODELS.build(cfg.detector), str(tmp_path / 'x.pth'))


@pytest.mark.parametrize('kind, message', [
    ('foreign', 'is no checkpoint of this model: of .* are missing'),
    ('text', 'cannot be read as a checkpoint'),
    ('wider', '1 have another shape .*conv_seg'),
])  # yapf: disable
def test_checkpoints_that_do_not_fit(digits, tmp_path, kind, message):
    """mmengine alone would test random weights without a word."""
    init_default_scope('mmseg')
    model = MODELS.build(tiny_digits_config(digits, tmp_path).model)
    state = model.state_dict()
    file = tmp_path / 'x.pth'
    if kind == 'foreign':
        state = {'backbone.foo': torch.ones(1)}
    elif kind == 'wider':
        weight = state['decode_head.conv_seg.weight']
        state['decode_head.conv_seg.weight'] = torch.cat([weight, weight])
    torch.save(state, file)
    if kind == 'text':
        file.write_text('no checkpoint')
    with pytest.raises(ValueError, match=message):
        check_checkpoint(model, str(file))


def test_checkpoint_of_another_form_of_reducer(digits, tmp_path, capfd):
    """Multi-head weights hold all of the simple form, and score otherwise."""
    init_default_scope('mmseg')
    cfg = tiny_digits_config(digits, tmp_path).model
    simple = MODELS.build(cfg)
    cfg.backbone.reducer.num_heads = cfg.auxiliary_head.num_heads = 2
    torch.save(MODELS.build(cfg).state_dict(), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='16 weights of reducers that the '
                       'config does not have.*num_heads is missing'):
        check_checkpoint(simple, str(tmp_path / 'x.pth'))
    check_checkpoint(MODELS.build(cfg), str(tmp_path / 'x.pth'))
    cfg.backbone.reducer = cfg.auxiliary_head = None  # what unpruned gives
    plain = MODELS.build(cfg)
    assert 'without pruning' not in ''.join(capfd.readouterr())
    check_checkpoint(plain, str(tmp_path / 'x.pth'))
    assert 'it runs without pruning' in ''.join(capfd.readouterr())
    with pytest.raises(ValueError, match='20 weights of reducers'):
        check_checkpoint(plain, str(tmp_path / 'x.pth'), exact=True)


def test_checkpoint_without_auxiliary_head(digits, tmp_path):
    init_default_scope('mmseg')
    model = MODELS.build(tiny_digits_config(digits, tmp_path).model)
    state = {
        k: v for k, v in model.state_dict().items()
        if not k.startswith('auxiliary_head.')}
    torch.save(dict(state_dict=state), tmp_path / 'x.pth')
    check_checkpoint(model, str(tmp_path / 'x.pth'))


def segmentor(digits: Path, work_dir: Path) -> Config:
    cfg = tiny_digits_config(digits, work_dir)
    # Weighted means of half batches are not the mean of the whole batch.
    del cfg.model.decode_head.loss_decode
    del cfg.model.auxiliary_head.loss_decode
    return cfg


def detector(digits: Path, work_dir: Path) -> Config:
    """FCOS, which draws no random samples and whose normalisers are means
    over processes."""
    cfg = tiny_detector_config(digits, work_dir)
    wrapper, model = cfg.model, Config.fromstring(
        '_base_ = "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py"',
        '.py').model
    model.bbox_head.update(
        num_classes=10, in_channels=32, feat_channels=32,
        norm_cfg=dict(type='GN', num_groups=8))
    model.backbone, model.neck = wrapper.detector.backbone, [
        dict(type='mmcropr.LLFNeck'),
        dict(
            type='mmcropr.SimpleFPN', in_channels=32, out_channels=32,
            patch_size=8, strides=[8, 16, 32])
    ]
    wrapper.detector = model
    cfg.val_evaluator.metric = cfg.test_evaluator.metric = 'bbox'
    return cfg


def plain_sgd(cfg: Config, batch: int) -> Config:
    """A run whose only source of randomness is the order of the data."""
    work_dir = cfg.work_dir
    cfg.optim_wrapper = dict(
        type='OptimWrapper', optimizer=dict(type='SGD', lr=0.05))
    cfg.param_scheduler = None
    cfg.train_dataloader.batch_size = batch
    # Each rank logs to a file of its own.
    cfg.custom_hooks.append(dict(type='LossesToFile', out_dir=work_dir))
    cfg.custom_imports.imports.append('tests.losses_to_file')
    return cfg


@pytest.mark.parametrize('make', [segmentor, detector])
def test_two_processes_are_one(digits, tmp_path, make):
    """Two processes with gloo, once by dist_train.sh: their mean loss is the
    loss of one with the doubled batch, step by step."""
    losses = {}
    for gpus, batch in ((1, 4), (2, 2)):
        work_dir = tmp_path / str(gpus)
        file = tmp_path / f'{gpus}.py'
        plain_sgd(make(digits, work_dir), batch).dump(file)
        if gpus == 1:
            done = run_main('train.py', file)
        elif make is segmentor:
            done = run_tool('bash', 'tools/dist_train.sh', file, gpus,
                            PORT=str(free_port()))
        else:
            done = run_tool(sys.executable, 'tools/train.py', file, ranks=gpus)
        assert done.returncode == 0, done.stderr[-3000:]
        losses[gpus] = np.mean([
            json.loads((work_dir / f'losses_{rank}.json').read_text())
            for rank in range(gpus)
        ], axis=0)  # yapf: disable
    # gloo's could abort the finished process; a fork does not end like that
    for rank in range(2 if make is segmentor else 0):
        threads = json.loads(
            (tmp_path / f'2/threads_{rank}.json').read_text())
        assert threads and 'pt_gloo_runloop' not in threads
    assert losses[1].shape == (8, )
    np.testing.assert_allclose(losses[2], losses[1], rtol=1e-4)


@pytest.mark.parametrize('script', [
    'dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh'
])
def test_scripts_say_how_to_use_them(script):
    done = run_tool('bash', f'tools/{script}')
    assert done.returncode == 2 and 'usage:' in done.stderr


def test_slurm_passes_everything_on(tmp_path):
    fake = tmp_path / 'srun'
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(0o755)
    done = run_tool(
        'env', f'PATH={tmp_path}{os.pathsep}{os.environ["PATH"]}', 'GPUS=16',
        'bash', 'tools/slurm_test.sh', 'part', 'job', 'c.py', 'c.pth',
        '--out', 'o.pkl')
    words = done.stdout.split()
    assert words[:2] == ['-p', 'part']
    assert '--ntasks=16' in words and '--gres=gpu:8' in words
    end = ['c.py', 'c.pth', '--launcher', 'slurm', '--out', 'o.pkl']
    assert words[-6:] == end


def test_missing_data_names_the_command(tmp_path):
    name = 'cropr-r30_digits-eva_linear_1xb32-15e_digits-scenes-96x96.py'
    done = run_main(
        'train.py', f'configs/cropr/{name}', '--work-dir', tmp_path / 'run',
        '--cfg-options',
        f'train_dataloader.dataset.data_root={tmp_path}/none')
    assert done.returncode == 1
    assert f'no data at {tmp_path}/none' in done.stderr
    assert 'python tools/dataset_converters/digits_scenes.py' in done.stderr
    assert 'Traceback' not in done.stderr
    assert not (tmp_path / 'run').exists()


def test_missing_checkpoint(config, tmp_path):
    done = run_main('test.py', config, tmp_path / 'none.pth')
    assert done.returncode == 2
    assert f'no checkpoint at {tmp_path}/none.pth' in done.stderr


def test_options(config, tmp_path, monkeypatch):
    tool = load_tool('train.py')
    monkeypatch.setattr(sys, 'argv', [
        'train.py', str(config), '--amp', '--resume', '--work-dir',
        str(tmp_path / 'w'), '--cfg-options', 'train_dataloader.batch_size=3'
    ])
    cfg = tool.load_config(tool.parse_args())
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.resume and cfg.load_from is None
    assert cfg.work_dir == str(tmp_path / 'w')
    assert cfg.train_dataloader.batch_size == 3
    monkeypatch.setattr(sys, 'argv', ['train.py', str(config),
                                      '--auto-scale-lr'])
    with pytest.raises(SystemExit, match='base_batch_size'):
        tool.load_config(tool.parse_args())


def test_resume_names_a_checkpoint(config, monkeypatch):
    tool = load_tool('train.py')
    monkeypatch.setattr(sys, 'argv', ['train.py', str(config), '--resume',
                                      'a.pth'])
    cfg = tool.load_config(tool.parse_args())
    assert cfg.resume and cfg.load_from == 'a.pth'


@pytest.mark.parametrize('start', [None, 'start.pth'])
def test_nothing_to_resume(config, monkeypatch, tmp_path, capsys, start):
    """A run that is started anew each time begins with ``load_from``, and
    goes on from its own checkpoint as soon as there is one."""
    tool = load_tool('train.py')
    options = ['--cfg-options', f'load_from={start}'] if start else []
    monkeypatch.setattr(sys, 'argv', [
        'train.py', str(config), '--resume', '--work-dir',
        str(tmp_path / 'w'), *options])
    cfg = tool.load_config(tool.parse_args())
    tool.find_resumed(cfg)
    assert cfg.resume is False and cfg.load_from == start
    said = capsys.readouterr().out
    assert 'a new run' in said and (start is None) == ('begins' not in said)
    (tmp_path / 'w').mkdir()
    (tmp_path / 'w/epoch_1.pth').touch()
    cfg = tool.load_config(tool.parse_args())
    tool.find_resumed(cfg)
    assert cfg.resume is True
    assert cfg.load_from == str(tmp_path / 'w/epoch_1.pth')


def test_checkpoint_of_another_model_with_tta(digits, tmp_path):
    cfg = tiny_digits_config(digits, tmp_path / 'run')
    cfg.tta_model = dict(type='SegTTAModel')
    cfg.tta_pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='TestTimeAug', transforms=[
            [dict(type='Resize', scale_factor=1.), ],
            [dict(type='RandomFlip', prob=0.)],
            [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])]
    cfg.dump(tmp_path / 'c.py')
    init_default_scope('mmseg')
    state = MODELS.build(cfg.model).state_dict()
    torch.save(dict(state_dict=state), tmp_path / 'whole.pth')
    state.pop('decode_head.conv_seg.weight')
    torch.save(dict(state_dict=state), tmp_path / 'part.pth')
    done = run_main('test.py', tmp_path / 'c.py', tmp_path / 'part.pth',
                    '--tta')
    assert done.returncode == 1
    assert 'decode_head.conv_seg.weight' in done.stderr
    done = run_main('test.py', tmp_path / 'c.py', tmp_path / 'whole.pth',
                    '--tta')
    assert done.returncode == 0, done.stderr


SHARE = ['--tpr', '.375']


@pytest.mark.parametrize('words, work_dir', [
    ([], 'work_dirs/NAME'), (SHARE, 'work_dirs/NAME_tpr37.5'),
    ([*SHARE, '--work-dir', 'w'], 'w'),
    (['--cfg-options', 'work_dir=own'], 'own'),
    ([*SHARE, '--cfg-options', 'work_dir=own'], 'own_tpr37.5')])
def test_another_share(words, work_dir, tmp_path, monkeypatch):
    """By default in a folder of its own: pruning maps of several shares."""
    tool, config = load_tool('test.py'), ROOT / 'configs/cropr' / (
        'cropr-tpr78_digits-eva_linear_1xb32-4e_digits-scenes-96x96.py')
    (tmp_path / 'a.pth').touch()
    monkeypatch.setattr(sys, 'argv', [
        'test.py', str(config), str(tmp_path / 'a.pth'), *words])
    cfg = tool.load_config(tool.parse_args())
    share = cfg.model.backbone.reducer.get('tpr')
    assert (share == .375) == ('--tpr' in words)
    assert cfg.work_dir == work_dir.replace('NAME', config.stem)
