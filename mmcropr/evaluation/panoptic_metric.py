# Copyright (c) mmcropr contributors.
import json
from pathlib import Path
from typing import Any, Dict, List, Sequence

import mmcv
import numpy as np
from mmengine.evaluator import BaseMetric

from mmcropr.registry import METRICS
from mmcropr.utils.panoptic import VOID, rgb_to_id

# mmdet's maps hold class + INSTANCE_OFFSET * instance
INSTANCE_OFFSET = 1000


def count_matches(truth: np.ndarray, segments: Sequence[dict],
                  found: np.ndarray, classes: Dict[int, int],
                  num_classes: int) -> np.ndarray:
    """Matches of one image by class (Kirillov et al., CVPR 2019).

    A segment of the truth and one found match where classes are equal and the
    intersection over union, in which void pixels do not count, is above 0.5.
    Crowds are never matched, and what was found is not counted where more
    than half of it lies in void or in the crowd of its class.

    Args:
        truth: Segment of every pixel, 0 for void, (H, W).
        segments: ``id``, ``label`` and ``iscrowd`` of each.
        found: Segment of every pixel, 0 for none, (H, W).
        classes: Label of each segment that was found.
        num_classes: Of the data set, C.

    Returns:
        Sum of the intersections over union, true positives, false positives
        and false negatives of every class, (C, 4).
    """
    pairs, counts = np.unique(
        np.stack([truth.ravel(), found.ravel()]), axis=1, return_counts=True)
    shared = {tuple(pair): count for pair, count in zip(pairs.T.tolist(),
                                                        counts.tolist())}
    areas = [dict(zip(*(side.tolist() for side in np.unique(
        image, return_counts=True)))) for image in (truth, found)]
    stats, matched = np.zeros((num_classes, 4)), set()
    for segment in segments:
        number, label = segment['id'], segment['label']
        if segment['iscrowd']:
            continue
        hits = [f for f, kind in classes.items()
                if kind == label and (number, f) in shared]
        for other in hits:
            common = shared[number, other]
            union = areas[0][number] + areas[1][other] - common
            iou = common / (union - shared.get((VOID, other), 0))
            if iou > 0.5:
                stats[label] += (iou, 1, 0, 0)
                matched.add(other)
                break
        else:
            stats[label, 3] += 1
    crowds = {s['label']: s['id'] for s in segments if s['iscrowd']}
    for other, label in classes.items():
        inside = sum(shared.get((number, other), 0)
                     for number in (VOID, crowds.get(label)))
        if other not in matched and 2 * inside <= areas[1][other]:
            stats[label, 2] += 1
    return stats


def count_pixels(truth: np.ndarray, found: np.ndarray,
                 num_classes: int) -> np.ndarray:
    """Pixels of one image by class, of those whose class is known.

    Args:
        truth: Class of every pixel, negative where unknown, (H, W).
        found: The same of what was found.
        num_classes: Of the data set, C.

    Returns:
        Pixels that are right, found and true of every class, (C, 3).
    """
    known = truth >= 0
    truth, found = truth[known], found[known]
    sides = (truth[truth == found], found[found >= 0], truth)
    return np.stack(
        [np.bincount(side, minlength=num_classes) for side in sides], axis=1)


@METRICS.register_module()
class PanopticMetric(BaseMetric):
    """Panoptic quality of mmdet's panoptic predictions, in percent: the same
    as its ``CocoPanopticMetric``, without panopticapi, which no package index
    has; and the mean intersection over union of their classes, mIoU, crowds
    included.

    Args:
        ann_file: Annotations in COCO's panoptic format.
        seg_prefix: Folder of their maps.
        kwargs: As of every metric of mmengine.
    """

    default_prefix = 'coco_panoptic'

    def __init__(self, ann_file: str, seg_prefix: str,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        content = json.loads(Path(ann_file).read_text())
        self.seg_prefix = Path(seg_prefix)
        self.truth = {a['image_id']: a for a in content['annotations']}
        self.categories = content['categories']

    def _labels(self) -> Dict[int, int]:
        """Category id -> label, the index among the classes."""
        names = {name: i for i, name in enumerate(
            self.dataset_meta['classes'])}
        return {c['id']: names[c['name']] for c in self.categories
                if c['name'] in names}

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        labels = self._labels()
        count = len(self.dataset_meta['classes'])
        for sample in data_samples:
            truth = self.truth[sample['img_id']]
            image = mmcv.imread(
                str(self.seg_prefix / truth['file_name']),
                channel_order='rgb')
            segments = [
                dict(id=s['id'], label=labels[s['category_id']],
                     iscrowd=s['iscrowd']) for s in truth['segments_info']
                if s['category_id'] in labels]
            found = sample['pred_panoptic_seg']['sem_seg'][0].cpu().numpy()
            found = np.where(found % INSTANCE_OFFSET < count, found + 1, VOID)
            classes = {
                number: (number - 1) % INSTANCE_OFFSET
                for number in np.unique(found).tolist() if number != VOID}
            ids = rgb_to_id(image)
            true_classes = np.full(ids.shape, -1)
            for segment in segments:
                true_classes[ids == segment['id']] = segment['label']
            found_classes = np.where(found == VOID, -1,
                                     (found - 1) % INSTANCE_OFFSET)
            self.results.append(
                np.concatenate([
                    count_matches(ids, segments, found, classes, count),
                    count_pixels(true_classes, found_classes, count)
                ], axis=1))

    def compute_metrics(self, results: List[np.ndarray]) -> Dict[str, float]:
        """PQ, SQ and RQ over the classes that occur, then of things and of
        stuff alone; mIoU."""
        counts = np.sum(results, axis=0).T
        ious, hits, wrong, missed = counts[:4]
        total = hits + (wrong + missed) / 2
        occur = total > 0
        quality = np.stack([
            ious / total.clip(.5), ious / hits.clip(1), hits / total.clip(.5)])
        things = np.isin(self.dataset_meta['classes'],
                         self.dataset_meta.get('thing_classes', ()))
        metrics = {}
        for suffix, part in (('', occur), ('_th', occur & things),
                             ('_st', occur & ~things)):
            means = quality[:, part].mean(1) if part.any() else np.zeros(3)
            for name, value in zip(('PQ', 'SQ', 'RQ'), means):
                metrics[name + suffix] = 100 * float(value)
        right, found, true = counts[4:]
        union = found + true - right
        ious = (right / union.clip(1))[union > 0]
        metrics['mIoU'] = 100 * float(ious.mean())
        return metrics
