# Copyright (c) mmcropr contributors.
"""Whole runs of EoMT on the digits scenes, as users start them."""
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

from tests.utils import ROOT, logged, run_tool

NAME = 'cropr-keep72-29_eomt_digits-eva_1xb16-8e_digits-panoptic-96x96.py'


def config(digits: Path, work_dir: Path, batch: int = 4) -> Config:
    """The digits config, shrunk, with nothing random but the order of the
    data."""
    cfg = Config.fromfile(ROOT / 'configs/cropr' / NAME)
    detector = cfg.model.detector
    detector.data_preprocessor.size = (64, 64)
    detector.backbone.update(img_size=64, init_cfg=None)
    detector.backbone.arch.update(embed_dim=32, num_heads=2)
    detector.backbone.reducer.keep = [40, 16]
    detector.panoptic_head.in_channels = 32
    # Weighted means of half batches are not the mean of the whole batch
    detector.panoptic_head.loss_cls = dict(
        type='CrossEntropyLoss', loss_weight=2., class_weight=[1.] * 13)
    detector.train_cfg.num_points = 64
    for loader in (cfg.train_dataloader, cfg.val_dataloader,
                   cfg.test_dataloader):
        loader.dataset.update(data_root=str(digits), pipeline=[
            dict(step, scale=(64, 64)) if step.type == 'Resize' else step
            for step in cfg.test_pipeline])
    for metric, kind in zip(cfg.val_evaluator, ('panoptic', 'instances')):
        metric.ann_file = str(digits / f'annotations/{kind}_val.json')
    cfg.val_evaluator[0].seg_prefix = str(digits / 'panoptic/val')
    cfg.val_evaluator[2].seg_prefix = str(digits / 'labels/val')
    cfg.test_evaluator = cfg.val_evaluator
    cfg.train_dataloader.batch_size = batch
    cfg.optim_wrapper = dict(
        type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
    cfg.merge_from_dict({
        'param_scheduler': None, 'work_dir': str(work_dir),
        'randomness.seed': 0, 'train_cfg.max_epochs': 2,
        'train_cfg.val_interval': 2, 'default_hooks.logger.interval': 1})
    # Masks in some iterations and not in others, never by chance
    cfg.custom_hooks = [
        dict(type='mmcropr.MaskAnnealingHook', start=[2, 5], end=[2, 5]),
        dict(type='SamePoints'),
        dict(type='LossesToFile', out_dir=str(work_dir))]
    cfg.custom_imports.imports += ['tests.losses_to_file',
                                   'tests.same_points']
    return cfg


def losses_of(work_dir: Path, ranks: int = 1) -> np.ndarray:
    return np.mean([
        json.loads((work_dir / f'losses_{rank}.json').read_text())
        for rank in range(ranks)], axis=0)  # yapf: disable


def train(file: Path, *args: str) -> None:
    # Not in this process, whose points would stay the same
    done = run_tool(sys.executable, 'tools/train.py', file, *args)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope='module')
def whole(digits, tmp_path_factory):
    """Config file and folder of a run of two epochs."""
    folder = tmp_path_factory.mktemp('eomt')
    config(digits, folder / 'run').dump(folder / 'whole.py')
    train(folder / 'whole.py')
    return folder / 'whole.py', folder / 'run'


def probs_of(checkpoint: Path) -> list:
    state = torch.load(checkpoint, 'cpu', weights_only=False)['state_dict']
    return state['detector.panoptic_head.attn_mask_probs'].tolist()


def test_run_and_what_it_says(whole, tmp_path):
    file, folder = whole
    assert losses_of(folder).shape == (8, )
    assert probs_of(folder / 'epoch_1.pth') == [0., 1.]
    assert probs_of(folder / 'epoch_2.pth') == [0., 0.]
    assert logged(folder, 'mask_prob_1') == [1.] * 4 + [0.] * 4
    assert 'coco_panoptic/PQ' in (next(
        folder.glob('*/vis_data/scalars.json'))).read_text()
    done = run_tool(
        sys.executable, 'tools/model_converters/strip_auxiliary.py', file,
        folder / 'epoch_2.pth', tmp_path / 'plain')
    assert done.returncode == 0, done.stderr[-3000:]
    text = (tmp_path / 'plain/whole.py').read_text()
    assert 'MaskAnnealingHook' not in text and 'auxiliary_head' not in text


def test_resumed_run_goes_on_as_it_was(digits, whole, tmp_path):
    (tmp_path / 'run').mkdir()
    first = tmp_path / 'run/epoch_1.pth'
    first.write_bytes((whole[1] / 'epoch_1.pth').read_bytes())
    (tmp_path / 'run/last_checkpoint').write_text(str(first))
    config(digits, tmp_path / 'run').dump(tmp_path / 'whole.py')
    train(tmp_path / 'whole.py', '--resume')
    np.testing.assert_array_equal(
        losses_of(tmp_path / 'run'), losses_of(whole[1])[4:])
    assert logged(tmp_path / 'run', 'mask_prob_1') == [0.] * 4
    last = [torch.load(folder / 'epoch_2.pth', 'cpu', weights_only=False)
            for folder in (tmp_path / 'run', whole[1])]
    for name, value in last[0]['state_dict'].items():
        assert torch.equal(value, last[1]['state_dict'][name]), name


def test_two_processes_are_one(digits, whole, tmp_path):
    file = tmp_path / 'two.py'
    config(digits, tmp_path / 'run', batch=2).dump(file)
    done = run_tool(sys.executable, 'tools/train.py', file, ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    np.testing.assert_allclose(
        losses_of(tmp_path / 'run', 2), losses_of(whole[1]), rtol=1e-4)
    assert probs_of(tmp_path / 'run/epoch_2.pth') == [0., 0.]
