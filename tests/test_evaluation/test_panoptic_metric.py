# Copyright (c) mmcropr contributors.
import json
from collections import defaultdict

import mmcv
import numpy as np
import pytest
import torch
from mmdet.evaluation.functional import panoptic_utils

from mmcropr.evaluation import PanopticMetric
from mmcropr.evaluation.panoptic_metric import count_matches, count_pixels
from mmcropr.utils.panoptic import id_to_rgb, rgb_to_id

CLASSES = ('a', 'b', 'c', 'd')
META = dict(classes=CLASSES, thing_classes=('a', 'b'))


def test_numbers_of_segments():
    numbers = np.array([[0, 7], [256 + 5, 256**2 * 3 + 256 * 2 + 1]])
    assert np.array_equal(rgb_to_id(id_to_rgb(numbers)), numbers)
    assert id_to_rgb(numbers)[1, 1].tolist() == [1, 2, 3]


class Count:

    def __init__(self) -> None:
        self.iou = self.tp = self.fp = self.fn = 0


def scene(rng):
    """Blocks of a truth and a prediction that is like it, with void."""
    blocks = rng.integers(0, 7, (6, 6)).repeat(4, 0).repeat(4, 1)
    found = np.where(rng.random(blocks.shape) < .25,
                     rng.integers(0, 7, blocks.shape), blocks)
    return blocks, found


@pytest.fixture
def data(tmp_path):
    """20 images in COCO's format, and mmdet's predictions for them."""
    rng = np.random.default_rng(0)
    categories = [dict(id=10 * (i + 1), name=name, isthing=int(i < 2))
                  for i, name in enumerate(CLASSES)]
    annotations, samples = [], []
    for number in range(20):
        truth, found = scene(rng)
        labels = rng.integers(0, 4, 7)
        kinds = np.where(rng.random(7) < .8, labels, rng.integers(0, 4, 7))
        name = f'{number}.png'
        mmcv.imwrite(id_to_rgb(truth * 300)[..., ::-1], str(tmp_path / name))
        annotations.append(dict(
            image_id=number, file_name=name, segments_info=[
                dict(id=s * 300, category_id=int(10 * (labels[s] + 1)),
                     area=int((truth == s).sum()),
                     iscrowd=int(rng.random() < .2))
                for s in range(1, 7) if (truth == s).any()]))
        maps = np.where(found > 0, kinds[found] + 1000 * found, 4)
        samples.append(dict(
            img_id=number,
            pred_panoptic_seg=dict(sem_seg=torch.from_numpy(maps)[None])))
    (tmp_path / 'truth.json').write_text(json.dumps(
        dict(categories=categories, annotations=annotations)))
    return tmp_path, annotations, samples


def of_mmdet(monkeypatch, folder, annotations, samples):
    """The same by mmdet's own function, with what it has from panopticapi."""
    monkeypatch.setattr(panoptic_utils, 'PQStat',
                        lambda: defaultdict(Count), raising=False)
    monkeypatch.setattr(panoptic_utils, 'OFFSET', 256**3, raising=False)
    monkeypatch.setattr(panoptic_utils, 'VOID', 0, raising=False)
    monkeypatch.setattr(panoptic_utils, 'rgb2id', rgb_to_id, raising=False)
    pairs = []
    (folder / 'found').mkdir()
    for truth, sample in zip(annotations, samples):
        found = sample['pred_panoptic_seg']['sem_seg'][0].numpy()
        found = np.where(found % 1000 == 4, 0, found + 1)
        mmcv.imwrite(id_to_rgb(found)[..., ::-1],
                     str(folder / 'found' / truth['file_name']))
        pairs.append((truth, dict(
            file_name=truth['file_name'], segments_info=[
                dict(id=n, category_id=(n - 1) % 1000 * 10 + 10)
                for n in np.unique(found).tolist() if n])))
    return panoptic_utils.pq_compute_single_core(
        0, pairs, str(folder), str(folder / 'found'), {10, 20, 30, 40})


def test_equals_mmdet(data, monkeypatch):
    folder, annotations, samples = data
    metric = PanopticMetric(str(folder / 'truth.json'), str(folder))
    metric.dataset_meta = META
    metric.process({}, samples)
    wanted = of_mmdet(monkeypatch, *data)
    total = np.sum(metric.results, axis=0)[:, :4]
    for label in range(4):
        one = wanted[10 * (label + 1)]
        assert total[label].tolist() == pytest.approx(
            [one.iou, one.tp, one.fp, one.fn])
    assert total.min() > 0
    quality = total[:, 0] / (total[:, 1] + total[:, 2:].sum(1) / 2)
    found = metric.evaluate(20)
    assert found['coco_panoptic/PQ'] == pytest.approx(100 * quality.mean())
    assert found['coco_panoptic/PQ_th'] == pytest.approx(
        100 * quality[:2].mean())
    assert found['coco_panoptic/PQ_st'] == pytest.approx(
        100 * quality[2:].mean())


def test_miou_is_that_of_mmseg(data):
    from mmseg.evaluation import IoUMetric
    folder, annotations, samples = data
    metric = PanopticMetric(str(folder / 'truth.json'), str(folder))
    metric.dataset_meta = META
    metric.process({}, samples)
    areas = []
    for truth, sample in zip(annotations, samples):
        ids = rgb_to_id(mmcv.imread(
            str(folder / truth['file_name']), channel_order='rgb'))
        label = np.full(ids.shape, 255)
        for segment in truth['segments_info']:
            label[ids == segment['id']] = segment['category_id'] // 10 - 1
        found = sample['pred_panoptic_seg']['sem_seg'][0] % 1000
        areas.append(IoUMetric.intersect_and_union(
            found, torch.from_numpy(label), 4, 255)[:2])
    right, union = np.sum([torch.stack(a).numpy() for a in areas], axis=0)
    wanted = 100 * (right / union).mean()
    assert 20 < wanted < 90
    found = metric.evaluate(20)['coco_panoptic/mIoU']
    assert found == pytest.approx(wanted)


def test_pixels_by_hand():
    truth = np.array([[0, 0, 1, -1]])
    found = np.array([[0, 1, -1, 1]])
    assert count_pixels(truth, found, 3).tolist() == [
        [1, 1, 2], [0, 1, 1], [0, 0, 0]]


def test_perfect_and_nothing():
    truth = np.array([[1, 1, 2, 2]])
    segments = [dict(id=1, label=0, iscrowd=0), dict(id=2, label=2, iscrowd=0)]
    found = count_matches(truth, segments, truth, {1: 0, 2: 2}, 4)
    assert found.tolist() == [[1, 1, 0, 0], [0] * 4, [1, 1, 0, 0], [0] * 4]
    found = count_matches(truth, segments, 0 * truth, {}, 4)
    assert found[:, 3].tolist() == [1, 0, 1, 0]
