# Copyright (c) mmcropr contributors.
import numpy as np
import pytest
import torch
from mmdet.structures.mask import BitmapMasks
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from torch import nn

from mmcropr.evaluation import KeptForeground
from mmcropr.evaluation.kept_foreground import count_kept, patches_of_mask
from tests.utils import (logged, tiny_classifier_config, tiny_detector_config,
                         tiny_digits_config)


def test_counts_of_pruned_patches():
    slots = np.array([0, -1, 1, 2, -1, -1])
    shows = np.array([True, True, False, True, False, False])
    # 2 of 3 foreground patches stay, 2 of 3 tokens are foreground
    assert count_kept(slots, shows).tolist() == [2, 3, 2, 3, 6]


def test_counts_of_merged_patches():
    slots = np.array([0, 0, 1, 1, 1, -1])
    shows = np.array([True, False, True, False, False, True])
    stays, total, hits, tokens, patches = count_kept(slots, shows)
    assert (stays, total, tokens, patches) == (2, 3, 2, 6)
    assert hits == pytest.approx(1 / 2 + 1 / 3)


def test_patches_of_masks():
    mask = np.zeros((16, 16), bool)
    mask[:8, :8] = True
    found = patches_of_mask(mask, (16, 16), (3, 3), (8, 8)).reshape(3, 3)
    assert found.tolist() == [[True, False, False]] + [[False] * 3] * 2
    # The input is twice as large as the file
    found = patches_of_mask(mask, (32, 32), (4, 4), (8, 8)).reshape(4, 4)
    assert found.sum() == 4 and found[:2, :2].all()
    mask[:] = False
    mask[0, :6] = True  # 6 of 64 pixels are less than a tenth
    assert not patches_of_mask(mask, (16, 16), (2, 2), (8, 8)).any()


def evaluate(cfg, **options):
    cfg.test_evaluator = dict(type='mmcropr.KeptForeground', **options)
    return Runner.from_cfg(cfg).test()


def check(metrics, modules):
    found = {k.split('/')[1]: v for k, v in metrics.items()
             if k.startswith('kept_foreground/')}
    assert all(0 <= value <= 100 for value in found.values())
    assert len(found) == 3 * modules + 4
    last = modules - 1
    assert found['survive'] == found[f'survive_{last}'] <= found['survive_0']
    assert 0 < found['kept'] < found['kept_0'] < 100
    assert 0 < found['chance'] < 100
    # Foreground tokens, counted from both sides
    assert found['precision'] * found['kept'] == pytest.approx(
        found['survive'] * found['chance'])
    return found


def test_segmentation(digits, tmp_path):
    cfg = tiny_digits_config(digits, tmp_path)
    found = check(evaluate(cfg), 4)
    assert found['kept'] == pytest.approx(100 * 15 / 64)


def test_detection_and_classification_see_the_same(digits, tmp_path):
    detector = evaluate(tiny_detector_config(digits, tmp_path / 'det'))
    found = check(detector, 2)
    classifier = evaluate(
        tiny_classifier_config(digits, tmp_path / 'cls'),
        seg_prefix=str(digits / 'labels/val'))
    assert check(classifier, 3)['chance'] == pytest.approx(found['chance'])


def test_a_selection_that_knows_the_foreground(digits, tmp_path, monkeypatch):
    """Kept are patches of the foreground alone, as long as there are any."""
    cfg = tiny_digits_config(digits, tmp_path)
    cfg.test_dataloader.batch_size = 1
    runner = Runner.from_cfg(cfg)
    masks = iter([sample['data_samples'][0].gt_sem_seg.data[0].numpy() > 0
                  for sample in runner.test_dataloader])
    reducers = runner.model.backbone.reducers

    def score(state):
        if state.module == 0:
            score.shows = torch.from_numpy(patches_of_mask(
                next(masks), (64, 64), (8, 8), (8, 8))).float()[None]
        return score.shows.gather(1, state.raster_index())

    for reducer in reducers:
        monkeypatch.setattr(reducer, 'score', score)
    metric = KeptForeground()
    runner.test_loop.evaluator = Evaluator([metric])
    runner.test_loop.evaluator.dataset_meta = dict(classes=())
    found = {k.split('/')[1]: v for k, v in runner.test().items()}
    assert found['survive'] == 100 and found['precision'] == pytest.approx(
        100 * 11 / 15)
    assert found['precision'] > found['chance'] * 2


def test_lets_go_of_the_model(digits, tmp_path):
    cfg = tiny_digits_config(digits, tmp_path)
    cfg.test_evaluator = dict(type='mmcropr.KeptForeground')
    runner = Runner.from_cfg(cfg)
    first, second = runner.test(), runner.test()
    assert first == second
    backbone = runner.model.backbone
    assert not backbone._forward_hooks and not backbone._forward_pre_hooks
    assert not any(r._forward_hooks for r in backbone.reducers)


def test_without_reducer_nothing_is_said(digits, tmp_path):
    cfg = tiny_digits_config(digits, tmp_path)
    cfg.model.backbone.reducer, cfg.model.auxiliary_head = None, None
    assert evaluate(cfg) == {}


def test_refusals(digits, tmp_path):
    with pytest.raises(ValueError, match='ModelCheckHook'):
        KeptForeground().process(None, [])
    with pytest.raises(ValueError, match='CroprViT'):
        KeptForeground().watch(nn.Linear(1, 1))
    with pytest.raises(ValueError, match='seg_prefix'):
        KeptForeground()._mask(dict(img_path='a.png'))
    cfg = tiny_digits_config(digits, tmp_path)
    cfg.model.test_cfg = dict(
        mode='slide', crop_size=(48, 48), stride=(16, 16))
    with pytest.raises(ValueError, match='windows'):
        evaluate(cfg)


@pytest.mark.parametrize('kind, message', [
    ('no masks', 'finds no mask in a sample'),
    ('crop', 'leave crops out'),
    ('folder', 'is no label map')])
def test_refused_before_training(digits, tmp_path, kind, message):
    cfg = tiny_digits_config(digits, tmp_path / 'run')
    cfg.val_evaluator = [
        cfg.val_evaluator, dict(type='mmcropr.KeptForeground')]
    pipeline = cfg.val_dataloader.dataset.pipeline
    if kind == 'no masks':
        del pipeline[[step.type for step in pipeline].index('LoadAnnotations')]
    elif kind == 'crop':
        pipeline[1:1] = [dict(type='Resize', scale=(64, 64)),
                         dict(type='RandomCrop', crop_size=(32, 32))]
    else:
        cfg.val_evaluator[1].seg_prefix = str(tmp_path)
    with pytest.raises(ValueError, match=message):
        Runner.from_cfg(cfg).train()
    assert not logged(tmp_path / 'run')


def test_masks_of_samples():
    metric = KeptForeground(background=(0, 3))
    labels = torch.tensor([[[0, 1], [3, 255]]])
    found = metric._mask(dict(gt_sem_seg=dict(data=labels)))
    assert found.tolist() == [[False, True], [False, False]]
    none = dict(gt_instances=dict(masks=BitmapMasks([], 4, 6)))
    assert not metric._mask(none).any() and metric._mask(none).shape == (4, 6)
    two = np.zeros((2, 4, 6), np.uint8)
    two[0, 0, 0] = two[1, 1, 1] = 1
    found = metric._mask(dict(gt_instances=dict(masks=BitmapMasks(two, 4, 6))))
    assert found.sum() == 2


def test_cropped_images_are_refused():
    """Their masks are those of whole files."""
    check_size = KeptForeground._check_size
    whole = dict(ori_shape=(256, 340), scale_factor=(.5, .5))
    check_size(whole, (128, 170))
    check_size(dict(ori_shape=(256, 340)), (128, 128))
    check_size(dict(whole, scale_factor=(.25, .5)), (128, 85))
    with pytest.raises(ValueError, match='leave crops out'):
        check_size(whole, (112, 112))
