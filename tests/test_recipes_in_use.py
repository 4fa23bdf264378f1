# Copyright (c) mmcropr contributors.
"""What comes of the recipes: parameters as the optimizer has them, first
weights, iterations of an epoch, images of ADE20k."""
import copy
import math
from pathlib import Path
from typing import Any, Callable, Tuple

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from torch import nn

from tests.utils import ROOT, TINY, logged, tiny_digits_config

ADE = 'linear_1xb8-amp-64e_ade20k-512x512'
VIT_L = 'vit-l_8xb128-amp-50e_in1k-224'
EVA_IN1K = 'eva02-l_8xb32-amp-50e_in1k-448'
MASK_RCNN = 'mask-rcnn_vit-b_8xb8-amp-184k_coco-1024'
CASCADE = 'cascade-mask-rcnn_eva02-l_8xb8-amp-40k_coco-1536'
ATSS, DINO = 'atss_vit-b_8xb2-1x_coco', 'dino_vit-b_8xb2-12e_coco'


def config(name: str) -> Config:
    folder = name.split('-')[0] if name.startswith('cropr') else 'no_pruning'
    return Config.fromfile(ROOT / f'configs/{folder}/{name}.py')


def build_empty(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The whole model of a config, without memory for its weights."""
    # timm reads numbers off it while it builds, which meta tensors have not.
    linspace = torch.linspace
    monkeypatch.setattr(torch, 'linspace', lambda *args, **kwargs: linspace(
        *args, **dict(kwargs, device='cpu')))
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        return MODELS.build(cfg.model)


def flat(module: nn.Module, name: str, param: nn.Parameter) -> bool:
    """What timm leaves without decay."""
    return param.ndim == 1 or name.endswith(
        ('pos_embed', 'cls_token', 'reg_token'))


def norms(module: nn.Module, name: str, param: nn.Parameter) -> bool:
    """What ViTDet leaves without decay."""
    return isinstance(module, (nn.LayerNorm, nn.GroupNorm)) or name.endswith(
        'pos_embed')


def nothing(module: nn.Module, name: str, param: nn.Parameter) -> bool:
    return False


def by_depth(decay: float, depth: int) -> Callable[[str], float]:
    """Factor of the learning rate, by the name of a parameter."""

    def factor(name: str) -> float:
        _, found, rest = name.partition('backbone.vit.')
        if not found or rest.startswith('norm.'):
            return 1.
        block = int(rest.split('.')[1]) if rest.startswith('blocks.') else -1
        return decay**(depth - block)

    return factor


def vit_by_tenth(name: str) -> float:
    return 0.1 if 'backbone.vit.' in name else 1.


@pytest.mark.parametrize('name, lr, factor, decay, without', [
    (f'cropr-r40_eva02-l_{ADE}', 2e-5, by_depth(0.9, 24), 0.05, flat),
    (f'cropr-r88_vit-b_{ADE}', 2e-5, by_depth(0.9, 12), 0.05, flat),
    (f'cropr-r88_dinov2-b_{ADE}', 2e-5, by_depth(0.9, 12), 0.05, flat),
    ('cropr-r88_eva02-l_linear_1xb8-amp-64e_cityscapes-768x768', 2e-5,
     by_depth(0.9, 24), 0.05, flat),
    (f'cropr-r8_{VIT_L}', 4e-3, by_depth(0.75, 24), 0.05, flat),
    (f'cropr-r40_{EVA_IN1K}', 1e-3, by_depth(0.75, 24), 0.05, flat),
    (f'cropr-tpr97_{MASK_RCNN}', 1e-4, by_depth(0.7, 12), 0.1, norms),
    (f'cropr-tpr97_{ATSS}', 1e-4, by_depth(0.7, 12), 0.1, norms),
    (f'cropr-tpr97_{CASCADE}', 4e-5, by_depth(0.8, 24), 0.1, nothing),
    (f'cropr-tpr97_{DINO}', 1e-4, vit_by_tenth, 1e-4, nothing),
    (DINO, 1e-4, vit_by_tenth, 1e-4, nothing),
])
def test_rate_and_decay_of_every_parameter(
        name: str, lr: float, factor: Callable, decay: float,
        without: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = config(name)
    model = build_empty(cfg, monkeypatch)
    # The other one wants a GPU
    wrapper = build_optim_wrapper(
        model, dict(cfg.optim_wrapper, type='OptimWrapper'))
    found = {}
    for group in wrapper.param_groups:
        for param in group['params']:
            found[param] = group['lr'], group['weight_decay']
    names = dict(model.named_modules())
    for key, param in model.named_parameters():
        if param.requires_grad:
            module = names[key.rpartition('.')[0]]
            wanted = lr * factor(key), (
                0. if without(module, key, param) else decay)
            assert found[param] == pytest.approx(wanted), key
    assert any('reducers.' in key for key in names) == ('cropr' in name)


@pytest.mark.parametrize('name, rate, depth', [
    (f'eva02-l_{ADE}', 0.2, 24),
    (f'cropr-r40_eva02-l_{ADE}', 0.2, 24),
    (VIT_L, 0.2, 24),
    (f'cropr-r8_{VIT_L}', 0.2, 24),
    (f'cropr-tpr97_{MASK_RCNN}', 0.1, 12),
    (f'cropr-tpr97_{CASCADE}', 0.3, 24),
])
def test_drop_path_of_every_block(name, rate, depth, monkeypatch):
    """Linear from 0; with pruning the last block, which fuses, has none."""
    model = build_empty(config(name), monkeypatch)
    blocks = getattr(model, 'detector', model).backbone.vit.blocks
    wanted = [rate * i / (depth - 1) for i in range(depth)]
    if name.startswith('cropr'):
        wanted[-1] = 0.
    for drop in ('drop_path1', 'drop_path2'):
        found = [getattr(getattr(b, drop), 'drop_prob', 0.) for b in blocks]
        assert found == pytest.approx(wanted)


def build_heads(cfg: Config) -> Tuple[Any, Any]:
    """The main head, if it is a linear one, and the auxiliary head of a
    config, with two modules and without the aggregators' MLPs."""
    init_default_scope(cfg.default_scope)
    small = dict(num_modules=2, mlp_ratio=0.)
    sizes = dict(in_channels=1024, num_classes=80)  # where they are left out
    if 'head' in cfg.model:
        head = MODELS.build({**sizes, **cfg.model.head, **small})
        return head, head.auxiliary
    auxiliary = MODELS.build({**sizes, **cfg.model.auxiliary_head, **small})
    if 'detector' in cfg.model:
        return None, auxiliary
    return MODELS.build(cfg.model.decode_head), auxiliary


@pytest.mark.parametrize('name, std', [
    (f'cropr-r40_eva02-l_{ADE}', 2e-5),
    ('cropr-r88_eva02-l_linear_1xb8-amp-64e_cityscapes-768x768', 2e-5),
    (f'cropr-r8_{VIT_L}', 0.02),
    (f'cropr-r40_{EVA_IN1K}', 2e-5),
    (f'cropr-tpr97_{MASK_RCNN}', None),
    (f'cropr-tpr97_{CASCADE}', None),
])
def test_first_weights_of_heads(name, std):
    torch.manual_seed(0)
    main, auxiliary = build_heads(config(name))
    layers = [(fc, 0.02) for fc in auxiliary.fcs]
    for head in (main, auxiliary):
        if head is not None:
            head.init_weights()
    if main is not None:
        layers.append((main.conv_seg if std and 'linear' in name else main.fc,
                       std))
    for layer, wanted in layers:
        assert layer.weight.std().item() == pytest.approx(wanted, rel=0.05)
        assert not layer.bias.any()


def test_first_queries(monkeypatch):
    """Truncated normal of std D ** -0.5, as the scorer is not scaled."""
    cfg = config(f'cropr-r88_vit-b_{ADE}')
    reducer = dict(cfg.model.backbone.reducer, rate=1)
    model = MODELS.build(
        dict(cfg.model.backbone, arch=dict(TINY, embed_dim=256, num_heads=4),
             reducer=reducer, pretrained=False))
    for module in model.reducers:
        assert module.queries.std().item() == pytest.approx(1 / 16, rel=0.05)


@pytest.mark.parametrize('name, images, iterations', [
    (f'cropr-r40_eva02-l_{ADE}', 20210, 2527),
    ('cropr-r88_eva02-l_linear_1xb8-amp-64e_cityscapes-768x768', 2975, 372),
])
def test_iterations_of_an_epoch(name, images, iterations):
    loader = config(name).train_dataloader
    found = torch.utils.data.DataLoader(
        range(images), loader.batch_size, drop_last=loader.drop_last)
    assert len(found) == iterations


def test_short_last_batch_and_evaluation_under_autocast(digits, tmp_path):
    """16 images in batches of 3: six iterations, the last of one image. The
    metric gets whole labels from logits in half precision."""
    cfg = tiny_digits_config(digits, tmp_path, train_cfg__max_epochs=1)
    cfg.train_dataloader.update(batch_size=3, drop_last=False)
    ade = config(f'cropr-r40_eva02-l_{ADE}')
    cfg.val_cfg, cfg.test_cfg = ade.val_cfg, ade.test_cfg
    cfg.train_cfg.val_interval = cfg.param_scheduler[1].end = 1
    runner, types = Runner.from_cfg(cfg), []
    runner.model.decode_head.conv_seg.register_forward_hook(
        lambda module, inputs, output: types.append(
            (module.training, output.dtype)))
    runner.train()
    assert len(logged(tmp_path, 'loss')) == 6
    assert all(math.isfinite(loss) for loss in logged(tmp_path, 'loss'))
    assert set(types) == {(True, torch.float32), (False, torch.bfloat16)}
    miou, = logged(tmp_path, 'mIoU')
    assert 0 < miou <= 100


def picture(folder: Path, height: int, width: int) -> str:
    path = folder / f'{height}x{width}.png'
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    cv2.imwrite(str(path), image.astype(np.uint8))
    return str(path)


@pytest.mark.parametrize('height, width', [(300, 400), (768, 512), (100, 90)])
def test_scale_of_ade20k(height, width, tmp_path):
    """In training the longer side has 256 to 1024 px, of which at most 512
    are cut out; in evaluation 512 px."""
    cfg = config(f'cropr-r40_eva02-l_{ADE}')
    init_default_scope('mmseg')
    labels = np.zeros((height, width), np.uint8)
    cv2.imwrite(str(tmp_path / 'labels.png'), labels)
    data = dict(img_path=picture(tmp_path, height, width), seg_fields=[],
                seg_map_path=str(tmp_path / 'labels.png'), label_map=None,
                reduce_zero_label=True)  # yapf: disable
    load = Compose(cfg.train_pipeline[:3])
    sides = [max(load(copy.deepcopy(data))['img_shape']) for _ in range(50)]
    assert 250 < min(sides) < 400 and 800 < max(sides) <= 1024
    train = Compose(cfg.train_pipeline)(copy.deepcopy(data))
    assert max(train['inputs'].shape) <= 512
    test = Compose(cfg.test_pipeline)(copy.deepcopy(data))
    assert max(test['inputs'].shape[1:]) == 512
    preprocess = MODELS.build(cfg.model.data_preprocessor)
    for item, training in ((train, True), (test, False)):
        item = dict(inputs=[item['inputs']],
                    data_samples=[item['data_samples']])
        assert preprocess(item, training)['inputs'].shape[2:] == (512, 512)


def test_fast_configs_make_up_for_rare_queries():
    """Queries at twice their rate, all else as in the sibling."""
    for name in sorted((ROOT / 'configs/cropr').glob('*-fast_*.py')):
        fast, plain = (Config.fromfile(path) for path in (
            name, str(name).replace('-fast', '')))
        assert fast.model.auxiliary_head.pop('query_share') == .25
        assert fast.model == plain.model
        rates = []
        for cfg in (fast, plain):
            cfg.model.backbone.update(arch=TINY, pretrained=False)
            cfg.model.backbone.reducer.update(
                rate=None, keep_rate=.9, modules=[0, 1])
            del cfg.model.backbone.reducer['rate']
            model = nn.Module()
            model.backbone = MODELS.build(cfg.model.backbone)
            cfg.optim_wrapper.pop('loss_scale', None)
            cfg.optim_wrapper.type = 'OptimWrapper'  # AMP wants a GPU
            wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
            rates.append({
                id_of(model, p): group['lr']
                for group in wrapper.optimizer.param_groups
                for p in group['params']})
        for key, rate in rates[1].items():
            factor = 2 if 'reducers' in key else 1
            assert rates[0][key] == pytest.approx(factor * rate), key


def id_of(model: nn.Module, parameter: nn.Parameter) -> str:
    return next(k for k, p in model.named_parameters() if p is parameter)
