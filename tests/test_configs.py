# Copyright (c) mmcropr contributors.
"""Every config builds and runs, shrunk."""
import copy

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.structures import DataSample
from mmseg.registry import MODELS as MMSEG_MODELS
from torch import nn

from mmcropr.models.checks import check_model
from mmcropr.models.reducers.build import SCHEDULE_KEYS
from mmcropr.structures import Decision, Route
from tests.test_models.test_heads.test_depth_head import depth_samples
from tests.test_models.test_vectors import samples
from tests.utils import REDUCERS, ROOT, shrink_sizes

CONFIGS = sorted(
    p.relative_to(ROOT).as_posix() for p in ROOT.glob('configs/*/*.py')
    if p.parent.name != '_base_')
EOMT = [n for n in CONFIGS if 'eomt' in n and 'ade20k-512' not in n]
DETECTORS = [n for n in CONFIGS
             if ('rcnn' in n or 'coco' in n) and 'eomt' not in n]
CLASSIFIERS = [n for n in CONFIGS if 'in1k' in n or '-classes-' in n]
DEPTH = [name for name in CONFIGS if '-depth_' in name]
SEGMENTORS = sorted(
    set(CONFIGS) - set(EOMT) - set(DETECTORS) - set(CLASSIFIERS) - set(DEPTH))
SIZE = 64


def shrink_backbone(backbone: ConfigDict) -> None:
    """The same architecture with a width of 32, 6 blocks and 64 px images;
    the schedule becomes a few patches off each of 4 modules."""
    arch = backbone.arch
    if not isinstance(arch, str) and 'name' not in arch:
        arch = {**arch, 'embed_dim': 32, 'depth': 6, 'num_heads': 2}
    else:
        changes = {} if isinstance(arch, str) else dict(arch)
        name = changes.pop('name', arch)
        eva = name.startswith('eva02')
        arch = dict(
            family='eva' if eva else 'vit', embed_dim=32, depth=6,
            num_heads=2, **changes)  # yapf: disable
        if eva:
            arch.update(
                qkv_fused=False, swiglu_mlp=True, scale_mlp=True,
                use_rot_pos_emb=True, ref_feat_shape=(16, 16))
        elif 'reg4' in name or 'dinov3' in name:
            arch.update(reg_tokens=4, no_embed_class=True, init_values=1e-5)
        if 'dinov3' in name:
            arch.update(
                family='eva', num_reg_tokens=arch.pop('reg_tokens'),
                use_abs_pos_emb=False, use_rot_pos_emb=True,
                rope_type='dinov3', rope_temperature=100.)  # yapf: disable
    patch = backbone.get('patch_size') or 16
    backbone.arch = ConfigDict(arch)
    backbone.update(img_size=SIZE, patch_size=patch, pretrained=False)
    if 'fuse_at' in backbone and backbone.fuse_at:
        backbone.fuse_at = -2
    backbone.pop('init_cfg', None)
    reducers = reducers_of(backbone)
    for number, reducer in enumerate(reducers):
        for key in SCHEDULE_KEYS:
            reducer.pop(key, None)
        count = 4 // len(reducers)
        reducer.update(
            rate=2 if patch == 16 else 12, align=1,
            modules=list(range(number * count, (number + 1) * count)))
        if reducer.get('num_queries', 1) not in (1, 'image'):
            reducer.num_queries = 'patch'


def reducers_of(backbone: ConfigDict) -> list:
    found = backbone.get('reducer') or []
    return found if isinstance(found, list) else [found]


def shrink(cfg: Config) -> ConfigDict:
    """Model of a segmentor's config, small. Classes of timm, prefix tokens,
    the kind of reducer, neck and heads stay."""
    model = copy.deepcopy(cfg.model)
    shrink_backbone(model.backbone)
    model.data_preprocessor.update(size=(SIZE, SIZE), test_cfg=None)
    model.decode_head.in_channels = 32
    shrink_fusion(model)
    if 'num_blocks' in model.decode_head:
        model.decode_head.num_blocks = 2
    model.pop('init_cfg', None)
    shrink_auxiliary(model)
    if model.test_cfg.mode == 'slide':
        model.test_cfg.update(crop_size=(SIZE, SIZE), stride=(48, 48))
    return model


def shrink_fusion(model: ConfigDict) -> None:
    """A neck with weights, to the ViT's width, grid and reducers."""
    neck = model.get('neck') or {}
    if 'in_channels' in neck:
        neck.in_channels = 32
    if 'num_heads' in neck:
        neck.num_heads = 2
    if 'num_queries' in neck:
        side = SIZE // model.backbone.patch_size
        neck.num_queries = [side, side]
    if 'num_modules' in neck:
        neck.num_modules = 4 // len(reducers_of(model.backbone))


def shrink_auxiliary(model: ConfigDict) -> None:
    if 'num_modules' in model.get('auxiliary_head', {}):
        backbone = model.get('detector', model).backbone
        model.auxiliary_head.update(
            in_channels=32, num_modules=4 // len(reducers_of(backbone)))


def shrink_detector(cfg: Config) -> ConfigDict:
    """Model of a detector's config, small; its heads stay."""
    model = ConfigDict(shrink_sizes(cfg.model.to_dict()))
    detector = model.get('detector', model)
    shrink_backbone(detector.backbone)
    detector.backbone.with_cp = False
    detector.pop('init_cfg', None)
    detector.neck[1].in_channels = 32
    preprocessor = detector.data_preprocessor
    preprocessor.pad_size_divisor = min(preprocessor.pad_size_divisor, SIZE)
    shrink_auxiliary(model)
    return model


def check_gradients(model: nn.Module, losses: dict) -> None:
    check_model(model)
    total = sum(
        sum(v) if isinstance(v, list) else v
        for k, v in losses.items() if 'loss' in k)
    total.backward()
    assert torch.isfinite(total)
    unused = [
        n for n, p in model.named_parameters()
        if p.requires_grad and p.grad is None
    ]
    assert not unused, 'DDP would wait for these for ever'


@pytest.mark.parametrize('name', SEGMENTORS)
def test_segmentor(name):
    run_segmentor(Config.fromfile(ROOT / name))


def run_segmentor(cfg: Config, amp: bool = False) -> None:
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MMSEG_MODELS.build(shrink(cfg))
    labels = torch.randint(0, cfg.model.decode_head.num_classes,
                           (2, SIZE, SIZE))
    image = torch.rand(2, 3, SIZE, SIZE)
    model.train()
    with torch.autocast('cpu', torch.bfloat16, enabled=amp):
        losses = model.loss(image, samples(labels))
    check_gradients(model, losses)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16, enabled=amp):
        model.eval()
        sample = samples(labels[:1, :, :SIZE])[0]
        sample.set_metainfo(dict(ori_shape=(80, 100)))
        result = model.predict(torch.rand(1, 3, 64, 80)[..., :SIZE],
                               [sample])[0]
    assert result.pred_sem_seg.data.shape == (1, 80, 100)


@pytest.mark.parametrize('name', DEPTH)
def test_depth(name):
    cfg = Config.fromfile(ROOT / name)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = copy.deepcopy(cfg.model)
    shrink_backbone(model.backbone)
    model.backbone.out_indices = [
        i // 2 for i in model.backbone.get('out_indices', (11, ))]
    model.data_preprocessor.update(size=(SIZE, SIZE))
    model.test_cfg = dict(mode='whole')
    if 'dpt' in name:
        model.decode_head.update(in_channels=[32] * 4, embed_dims=32)
    else:
        model.neck[1].in_channels = 32
    shrink_auxiliary(model)
    model = MMSEG_MODELS.build(model).train()
    data = depth_samples(torch.rand(2, SIZE, SIZE) * 5)
    check_gradients(model, model.loss(torch.rand(2, 3, SIZE, SIZE), data))
    with torch.no_grad():
        result, = model.eval().predict(torch.rand(1, 3, SIZE, SIZE), data[:1])
    assert result.pred_depth_map.data.shape == (1, SIZE, SIZE)


@pytest.mark.parametrize('name', DETECTORS)
def test_detector(name):
    run_detector(Config.fromfile(ROOT / name))


def run_detector(cfg: Config) -> None:
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(shrink_detector(cfg))
    model.init_weights()
    assert ('Cropr' in str(cfg.model.get('detector'))) == (
        'auxiliary_head' in cfg.model)
    data = demo_mm_inputs(2, [(3, SIZE, SIZE), (3, SIZE, 48)], [2, 1],
                          num_classes=10, with_mask=True)
    model.train()
    inputs = model.data_preprocessor(data, True)
    check_gradients(model, model(**inputs, mode='loss'))
    with torch.no_grad():
        results = model.eval().test_step(data)
    assert [r.ori_shape for r in results] == [(SIZE, SIZE), (SIZE, 48)]


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_classifier(name):
    run_classifier(Config.fromfile(ROOT / name))


def run_classifier(cfg: Config, amp: bool = False) -> None:
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    cfg = copy.deepcopy(cfg.model)
    cfg.pop('init_cfg', None)
    shrink_backbone(cfg.backbone)
    cfg.head.in_channels = 32
    if 'num_modules' in cfg.head:
        cfg.head.num_modules = 4
    model = MODELS.build(cfg)
    data = dict(
        inputs=torch.randint(0, 256, (4, 3, SIZE, SIZE)),
        data_samples=[DataSample().set_gt_label(i) for i in range(4)])
    model.train()
    with torch.autocast('cpu', torch.bfloat16, enabled=amp):
        losses = model(**model.data_preprocessor(data, True), mode='loss')
    check_gradients(model, losses)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16, enabled=amp):
        results = model.eval().test_step(data)
    assert len(results[0].pred_score) == cfg.head.num_classes


# One config per task, shrunk, whose reducer is replaced by every other
PARENTS = {
    'segmentation': 'digits-eva_linear_1xb32-4e_digits-scenes-96x96',
    'detection': 'mask-rcnn_digits-eva_1xb16-6e_digits-scenes-96x96',
    'classification': 'digits-eva_1xb32-8e_digits-classes-96x96',
}


def config_with(name: str, task: str) -> Config:
    """The config of a task with a reducer and the head that it needs."""
    cfg = Config.fromfile(ROOT / f'configs/no_pruning/{PARENTS[task]}.py')
    queries = 64 if task == 'segmentation' else 1
    record_type = MODELS.get(f'mmcropr.{name}').record_type
    reducer = dict(type=f'mmcropr.{name}')
    if record_type is Route:
        reducer['num_queries'] = queries
    detector = cfg.model.get('detector', cfg.model)
    detector.backbone.reducer = ConfigDict(reducer)
    head = {
        None: None,
        Decision: dict(type='mmcropr.DynamicViTHead'),
        Route: dict(
            type='mmcropr.CroprSegHead' if task == 'segmentation' else
            'mmcropr.CroprMultiLabelHead', in_channels=32, num_modules=4,
            num_classes=11 if task == 'segmentation' else 10)
    }[record_type]
    kind = {Route: 'Cropr', Decision: 'DynamicViT'}.get(record_type)
    if head is not None and task == 'segmentation':
        cfg.model.auxiliary_head = head
    elif head is not None and task == 'detection':
        cfg.model = ConfigDict(
            type='mmcropr.CroprDetector', detector=cfg.model,
            auxiliary_head=head)
    elif head is not None:
        cfg.model.head.type = f'mmcropr.{kind}ClsHead'
        if kind == 'Cropr':
            cfg.model.head.num_modules = 4
    return cfg


@pytest.mark.parametrize('task', PARENTS)
@pytest.mark.parametrize('name', REDUCERS)
def test_every_reducer_in_every_task(name, task):
    """Trains a step and predicts, whatever the task."""
    run = dict(segmentation=run_segmentor, detection=run_detector,
               classification=run_classifier)[task]
    run(config_with(name, task))


@pytest.mark.parametrize('run, task', [(run_segmentor, 'segmentation'),
                                       (run_classifier, 'classification')])
@pytest.mark.parametrize('name', REDUCERS)
def test_mixed_precision(name, run, task):
    """A step and a prediction in half precision, heads included. (NMS of mmcv
    has none on the CPU, so no detector with proposals.)"""
    run(config_with(name, task), amp=True)
