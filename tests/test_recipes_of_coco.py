# Copyright (c) mmcropr contributors.
"""Images, boxes and empty images of the COCO recipes."""
import copy
from pathlib import Path
from typing import Any, Dict, Tuple

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from tests.utils import ROOT, TINY, shrink_sizes

NAME = 'cropr-tpr97_mask-rcnn_vit-b_8xb8-amp-184k_coco-1024'


def picture(folder: Path, height: int, width: int) -> str:
    path = folder / f'{height}x{width}.png'
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    cv2.imwrite(str(path), image.astype(np.uint8))
    return str(path)


def small(cfg: Any) -> Any:
    """A pipeline for images of 64 px instead of 1024."""
    if isinstance(cfg, dict):
        return {key: small(value) for key, value in cfg.items()}
    if isinstance(cfg, (list, tuple)):
        return type(cfg)(small(item) for item in cfg)
    return 64 if cfg == 1024 else cfg


def tiny_mask_rcnn() -> Tuple[nn.Module, Dict[str, Any]]:
    """The model and the pipelines of a published config, small."""
    cfg = Config.fromfile(ROOT / f'configs/cropr/{NAME}.py')
    init_default_scope(cfg.default_scope)
    model = ConfigDict(small(shrink_sizes(cfg.model.to_dict())))
    detector = model.detector
    detector.backbone.update(arch=TINY, img_size=64, pretrained=False)
    detector.backbone.reducer = ConfigDict(
        type='mmcropr.Cropr', rate=2, align=1, num_queries=1)
    detector.neck[1].in_channels = 32
    model.auxiliary_head.update(in_channels=32, num_modules=2)
    detector.test_cfg.rcnn.score_thr = 0.
    torch.manual_seed(0)
    pipelines = {
        kind: Compose(small(cfg[f'{kind}_pipeline']))
        for kind in ('train', 'test')
    }
    return MODELS.build(model), pipelines


@pytest.mark.parametrize('height, width', [(60, 100), (100, 40), (128, 128)])
def test_boxes_stay_inside_the_image(height, width, tmp_path):
    """Not on the padding of a square."""
    model, pipelines = tiny_mask_rcnn()
    nn.init.normal_(model.detector.roi_head.bbox_head.fc_reg.weight, std=1.)
    item = pipelines['test'](dict(
        img_path=picture(tmp_path, height, width), img_id=0, instances=[]))
    data = dict(inputs=[item['inputs']], data_samples=[item['data_samples']])
    padded = model.detector.data_preprocessor(copy.deepcopy(data), False)
    assert padded['inputs'].shape == (1, 3, 64, 64)
    with torch.no_grad():
        boxes = model.eval().test_step(data)[0].pred_instances.bboxes
    assert len(boxes) and (boxes >= 0).all()
    assert boxes[:, 2].max().item() == pytest.approx(width, abs=1e-3)
    assert boxes[:, 3].max().item() == pytest.approx(height, abs=1e-3)


@pytest.mark.parametrize('instances', [[], [
    dict(bbox=[3, 3, 3.001, 3.001], bbox_label=1, ignore_flag=0,
         mask=[[3, 3, 3.001, 3, 3.001, 3.001]])
]])
def test_images_without_boxes_are_trained_on(instances, tmp_path):
    """As detectron2 keeps what a crop has emptied."""
    model, pipelines = tiny_mask_rcnn()
    whole = dict(bbox=[5, 5, 60, 55], bbox_label=1, ignore_flag=0,
                 mask=[[5, 5, 60, 5, 60, 55, 5, 55]])  # yapf: disable
    items = [pipelines['train'](copy.deepcopy(dict(
        img_path=picture(tmp_path, 64, 80), img_id=i, height=64, width=80,
        instances=found))) for i, found in enumerate([instances, [whole]])]
    assert items[0] is not None
    assert len(items[0]['data_samples'].gt_instances) == 0
    data = dict(inputs=[item['inputs'] for item in items],
                data_samples=[item['data_samples'] for item in items])
    model.train()
    losses = model(**model.data_preprocessor(data, True), mode='loss')
    total = sum(torch.as_tensor(v).sum() if not isinstance(v, list) else
                sum(v) for k, v in losses.items() if 'loss' in k)
    assert torch.isfinite(total)


def test_images_without_objects_are_trained_on():
    """The step that drops boxes that are too small drops no image."""
    from mmdet.registry import TRANSFORMS
    from mmdet.structures.bbox import HorizontalBoxes
    init_default_scope('mmdet')
    pipeline = Config.fromfile(
        ROOT / 'configs/_base_/datasets/coco-instances_1536x1536.py'
    ).train_dataloader.dataset.pipeline
    step = TRANSFORMS.build(
        next(s for s in pipeline if s.type == 'FilterAnnotations'))
    boxes = torch.tensor([[3., 3., 3., 3.], [2., 2., 50., 50.]])
    for count, left in ((0, 0), (1, 0), (2, 1)):
        found = step(dict(
            gt_bboxes=HorizontalBoxes(boxes[:count]),
            gt_bboxes_labels=np.zeros(count, np.int64),
            gt_ignore_flags=np.zeros(count, bool)))
        assert found is not None and len(found['gt_bboxes']) == left
