# Copyright (c) mmcropr contributors.
"""What the configs of published results say, a row per setting of their
recipes. What comes out of it is in test_recipes_in_use.py."""
from functools import lru_cache, reduce
from typing import Any, Callable, Dict, List, Tuple, Union

import pytest
from mmengine.config import Config

from tests.utils import ROOT

EVA_ADE = 'eva02-l_linear_1xb8-amp-64e_ade20k-512x512'
VIT_L = 'vit-l_8xb128-amp-50e_in1k-224'
EVA_IN1K = 'eva02-l_8xb32-amp-50e_in1k-448'
MASK_RCNN = 'mask-rcnn_vit-b_8xb8-amp-184k_coco-1024'
CASCADE = 'cascade-mask-rcnn_eva02-l_8xb8-amp-40k_coco-1536'


@lru_cache(maxsize=None)
def config(path: str) -> Config:
    return Config.fromfile(ROOT / path)


def configs_of(part: str) -> Dict[str, Config]:
    """The configs with this in their names."""
    paths = sorted(ROOT.glob(f'configs/*/*{part}*.py'))
    paths = [p for p in paths if p.parent.parent.name == 'configs']
    assert paths
    return {path.stem: config(str(path.relative_to(ROOT))) for path in paths}


def step(cfg: Config, name: str, kind: str = 'train') -> Any:
    """The one transform of this type in a pipeline."""
    found = [
        item for item in cfg[f'{kind}_dataloader'].dataset.pipeline
        if item.type == name
    ]
    assert len(found) == 1, (name, kind)
    return found[0]


def batch(cfg: Config) -> int:
    """Of all the processes that the names count."""
    name = cfg.filename.split('_')
    number = next(p for p in name if 'xb' in p).split('xb')[0]
    return int(number) * cfg.train_dataloader.batch_size


def share(cfg: Config) -> float:
    """Part of the run in which the pruning rate rises."""
    hooks = list(cfg.get('custom_hooks', ())) + list(
        cfg.default_hooks.values())
    found = [h for h in hooks if h.type == 'mmcropr.PruningCurriculumHook']
    return max([h.get('share', 0.5) for h in found], default=0.)


def detector(cfg: Config) -> Any:
    return cfg.model.get('detector', cfg.model)


def losses_of(head: Any) -> Tuple[str, float]:
    return head.loss_bbox.type, head.loss_bbox.loss_weight


SEGMENTATION = [
    ('epochs', 'train_cfg.max_epochs', 64),
    ('batch', batch, 8),
    ('batch of the learning rate', 'auto_scale_lr.base_batch_size',
     8),
    ('optimizer', lambda c: dict(c.optim_wrapper.optimizer),
     dict(type='AdamW', lr=2e-5, weight_decay=0.05)),
    ('layer decay', 'optim_wrapper.paramwise_cfg.layer_decay_rate',
     0.9),
    ('mixed precision', 'optim_wrapper.type', 'AmpOptimWrapper'),
    ('and in evaluation', lambda c: (c.val_cfg, c.test_cfg),
     (dict(type='ValLoop', fp16=True), dict(type='TestLoop', fp16=True))),
    ('schedule to its end, no warm-up',
     lambda c: [dict(s) for s in c.param_scheduler],
     [dict(type='PolyLR', power=0.9, eta_min=0., begin=0, end=64,
           by_epoch=True, convert_to_iter_based=True)]),
    ('no clipping', lambda c: c.optim_wrapper.get('clip_grad'), None),
    ('last batch kept', 'train_dataloader.drop_last', False),
    ('largest share of a class',
     lambda c: step(c, 'RandomCrop').cat_max_ratio, 0.75),
    ('flip', lambda c: step(c, 'RandomFlip').prob, 0.5),
    ('photometric distortion', lambda c: dict(step(c, 'PhotoMetricDistortion')
                                              ),
     dict(type='PhotoMetricDistortion')),
    ('curriculum over half of the run', share, 0.5),
    ('head', lambda cfg: cfg.model.decode_head.type in (
        'mmcropr.LinearHead', 'mmcropr.DToPHead'), True),
]  # yapf: disable
IMAGENET = [
    ('epochs', 'train_cfg.max_epochs', 50),
    ('learning rate per 256 images',
     lambda c: c.optim_wrapper.optimizer.lr / batch(c) * 256, 1e-3),
    ('batch of the learning rate',
     lambda c: c.auto_scale_lr.base_batch_size == batch(c), True),
    ('optimizer', lambda c: (c.optim_wrapper.optimizer.type,
                             c.optim_wrapper.optimizer.weight_decay),
     ('AdamW', 0.05)),
    ('layer decay', 'optim_wrapper.paramwise_cfg.layer_decay_rate',
     0.75),
    ('mixed precision', 'optim_wrapper.type', 'AmpOptimWrapper'),
    ('and in evaluation', lambda c: (c.val_cfg.fp16, c.test_cfg.fp16),
     (True, True)),
    ('warm-up', lambda c: (c.param_scheduler[0].type,
                           c.param_scheduler[0].end), ('LinearLR', 5)),
    ('cosine', lambda c: [c.param_scheduler[1][k]
                          for k in ('type', 'begin', 'end')],
     ['CosineAnnealingLR', 5, 50]),
    ('to a learning rate of', lambda c: c.param_scheduler[1].eta_min_ratio
     * c.optim_wrapper.optimizer.lr, pytest.approx(1e-6)),
    ('schedulers in all', lambda c: len(c.param_scheduler), 2),
    ('drop path', 'model.backbone.drop_path_rate', 0.2),
    ('label smoothing', lambda c: dict(c.model.head.loss),
     dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')),
    ('mixup and CutMix', lambda c: c.model.train_cfg.to_dict(),
     dict(augments=[dict(type='Mixup', alpha=0.8),
                    dict(type='CutMix', alpha=1.0)])),
    ('RandAugment m9 std0.5 inc1',
     lambda c: [step(c, 'RandAugment')[k]
                for k in ('policies', 'num_policies', 'magnitude_level',
                          'magnitude_std', 'total_level')],
     ['timm_increasing', 2, 9, 0.5, 10]),
    ('erasing', lambda c: (step(c, 'RandomErasing').erase_prob,
                           step(c, 'RandomErasing').mode), (0.25, 'rand')),
    ('crop', lambda c: step(c, 'RandomResizedCrop').scale
     == c.model.backbone.img_size, True),
    ('flip', lambda c: step(c, 'RandomFlip').prob, 0.5),
    ('1,251 updates an epoch', 'train_dataloader.drop_last', True),
    ('no curriculum', share, 0.),
]  # yapf: disable
COCO = [
    ('large-scale jitter', lambda c: step(c, 'RandomResize').ratio_range,
     (0.1, 2.0)),
    ('flip', lambda c: step(c, 'RandomFlip').prob, 0.5),
    ('boxes of cropped masks', lambda c: step(c, 'RandomCrop').recompute_bbox,
     True),
    ('empty crops', lambda c: step(c, 'RandomCrop').allow_negative_crop,
     True),
    ('images without boxes', lambda c: (
        step(c, 'FilterAnnotations').keep_empty,
        c.train_dataloader.dataset.filter_cfg.filter_empty_gt),
     (False, False)),
    ('batch', batch, 64),
    ('batch of the learning rate', 'auto_scale_lr.base_batch_size',
     64),
    ('mixed precision', 'optim_wrapper.type', 'AmpOptimWrapper'),
    ('no padding before the data preprocessor', lambda c: 'Pad' in str(
        c.test_dataloader.dataset.pipeline).replace('PackDet', ''), False),
    ('no curriculum', share, 0.),
]  # yapf: disable
# Part of the names of configs: rows of what, how to read it, what it is
RECIPES: Dict[str, List[Tuple[str, Union[str, Callable], Any]]] = {
    'linear_1xb8-amp-64e_ade20k-512x512': SEGMENTATION + [
        ('training scale', lambda c: dict(step(c, 'RandomResize')),
         dict(type='RandomResize', scale=(512, 512), ratio_range=(0.5, 2.0),
              keep_ratio=True)),
        ('crop', lambda c: step(c, 'RandomCrop').crop_size, (512, 512)),
        ('evaluation: the longer side',
         lambda c: dict(step(c, 'Resize', 'test')),
         dict(type='Resize', scale=(512, 512), keep_ratio=True)),
        ('evaluation: padded', lambda c: (
            c.model.data_preprocessor.test_cfg, c.model.test_cfg.mode),
         (dict(size=(512, 512)), 'whole')),
        ('training: padded', 'model.data_preprocessor.size',
         (512, 512)),
    ],
    EVA_ADE: [
        ('model', lambda c: (c.model.backbone.arch,
                             c.model.backbone.patch_size),
         ('eva02_large_patch14_224.mim_m38m', 16)),
        ('drop path', 'model.backbone.drop_path_rate', 0.2),
        ('mean and std', lambda c: [c.model.data_preprocessor[k]
                                    for k in ('mean', 'std')],
         [[127.5] * 3] * 2),
    ],
    f'r40_{EVA_ADE}': [
        ('rate', 'model.backbone.reducer.rate', 40),
    ],
    'cityscapes-768x768': SEGMENTATION + [
        ('training scale', lambda c: dict(step(c, 'RandomResize')),
         dict(type='RandomResize', scale=(2048, 1024),
              ratio_range=(0.5, 2.0), keep_ratio=True)),
        ('crop', lambda c: step(c, 'RandomCrop').crop_size, (768, 768)),
        ('evaluation', lambda c: c.model.test_cfg.to_dict(),
         dict(mode='slide', crop_size=(768, 768), stride=(512, 512))),
        ('drop path', 'model.backbone.drop_path_rate', 0.2),
        ('rate', lambda c: c.model.backbone.get('reducer', {}).get('rate', 88),
         88),
    ],
    'in1k': IMAGENET,
    VIT_L: [
        ('batch', batch, 1024),
        ('model', 'model.backbone.arch',
         'vit_large_patch16_224.mae'),
        ('evaluation', lambda c: (step(c, 'ResizeEdge', 'test').scale,
                                  step(c, 'CenterCrop', 'test').crop_size),
         (256, 224)),
    ],
    'xb128-amp-50e_in1k-224': [
        ('norm of a mean is fresh', lambda c: c.model.backbone.pretrained == (
            dict(weights=True, fresh=['norm.'])
            if c.model.neck.pool == 'avg' else True), True),
    ],
    f'r8_{VIT_L}': [
        ('rate', 'model.backbone.reducer.rate', 8),
    ],
    EVA_IN1K: [
        ('norm', 'model.backbone.pretrained', True),
        ('batch', batch, 256),
        ('evaluation', lambda c: (step(c, 'ResizeEdge', 'test').scale,
                                  step(c, 'CenterCrop', 'test').crop_size),
         (448, 448)),
    ],
    MASK_RCNN: COCO + [
        ('iterations', 'train_cfg.max_iters', 184375),
        ('optimizer', lambda c: dict(c.optim_wrapper.optimizer),
         dict(type='AdamW', lr=1e-4, weight_decay=0.1)),
        ('layer decay',
         'optim_wrapper.paramwise_cfg.layer_decay_rate', 0.7),
        ('warm-up', lambda c: [c.param_scheduler[0][k] for k in (
            'type', 'start_factor', 'end')], ['LinearLR', 0.001, 250]),
        ('milestones', lambda c: c.param_scheduler[1].milestones,
         [163889, 177546]),
        ('training size', lambda c: (step(c, 'RandomResize').scale,
                                     step(c, 'RandomCrop').crop_size),
         ((1024, 1024), (1024, 1024))),
        ('evaluation size', lambda c: step(c, 'Resize', 'test').scale,
         (1024, 1024)),
        ('padded', lambda c: detector(c).data_preprocessor.pad_size_divisor,
         1024),
        ('drop path', lambda c: detector(c).backbone.drop_path_rate, 0.1),
        ('losses of boxes', lambda c: [losses_of(detector(c).rpn_head),
                                       losses_of(detector(c).roi_head.bbox_head
                                                 )], [('L1Loss', 1.)] * 2),
    ],
    CASCADE: COCO + [
        ('iterations', 'train_cfg.max_iters', 40000),
        ('optimizer', lambda c: dict(c.optim_wrapper.optimizer),
         dict(type='AdamW', lr=4e-5, weight_decay=0.1)),
        ('layer decay',
         'optim_wrapper.paramwise_cfg.layer_decay_rate', 0.8),
        ('warm-up, then constant', lambda c: [
            [s[k] for k in ('type', 'start_factor', 'end')]
            for s in c.param_scheduler], [['LinearLR', 0.001, 400]]),
        ('averaged weights', lambda c: [
            h.momentum for h in c.custom_hooks if h.type == 'EMAHook'],
         [1e-4]),
        ('training size', lambda c: (step(c, 'RandomResize').scale,
                                     step(c, 'RandomCrop').crop_size),
         ((1536, 1536), (1536, 1536))),
        ('evaluation size', lambda c: step(c, 'Resize', 'test').scale,
         (1536, 1536)),
        ('padded', lambda c: detector(c).data_preprocessor.pad_size_divisor,
         1536),
        ('drop path', lambda c: detector(c).backbone.drop_path_rate, 0.3),
        ('losses of boxes', lambda c: [losses_of(h) for h in [
            detector(c).rpn_head, *detector(c).roi_head.bbox_head]],
         [('L1Loss', 1.)] * 4),
        ('stages count the same',
         lambda c: detector(c).roi_head.stage_loss_weights, [1 / 3] * 3),
        ('one box for all classes', lambda c: [
            h.reg_class_agnostic for h in detector(c).roi_head.bbox_head],
         [True] * 3),
        ('overlaps of the stages', lambda c: [
            r.assigner.pos_iou_thr for r in detector(c).train_cfg.rcnn],
         [0.5, 0.6, 0.7]),
        ('proposals', lambda c: (
            detector(c).train_cfg.rpn_proposal.max_per_img,
            detector(c).test_cfg.rpn.max_per_img), (1000, 1000)),
    ],
    f'cropr-tpr97_{CASCADE}': [
        ('pruned in all', lambda c: detector(c).backbone.reducer.tpr, 0.97),
    ],
}  # yapf: disable


@pytest.mark.parametrize('part, what, read, value', [
    (part, *row) for part, rows in RECIPES.items() for row in rows
], ids=lambda item: item if isinstance(item, str) else '')
def test_recipe(part, what, read, value):
    for name, cfg in configs_of(part).items():
        found = read(cfg) if callable(read) else reduce(
            lambda item, key: item.get(key), read.split('.'), cfg)
        assert found == value, (name, what)
