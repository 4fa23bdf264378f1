# Copyright (c) mmcropr contributors.
"""EoMT of the reference vectors (eomt.md), as models of mmdet and mmseg."""
from contextlib import contextmanager
from typing import Any, Iterator, List, Optional

import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmseg.registry import MODELS as MMSEG_MODELS
from torch import Tensor, nn

from tests.utils import group, load_tool

convert = load_tool('model_converters/official_eomt.py').convert

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def backbone(cfg: dict, **options: Any) -> dict:
    """Config of the backbone, from that of the vectors."""
    arch = dict(
        family='vit', embed_dim=cfg['embed_dim'], depth=cfg['depth'],
        num_heads=cfg['num_heads'], mlp_ratio=cfg['mlp_ratio'],
        reg_tokens=cfg['reg_tokens'], no_embed_class=True,
        init_values=1e-5)  # yapf: disable
    own = dict(
        type='mmcropr.CroprViT', arch=arch, img_size=cfg['img_size'],
        patch_size=cfg['patch_size'], out_type='tokens',
        fuse_at=-cfg['num_blocks'])  # yapf: disable
    return {**own, **options}


def detector_cfg(cfg: dict,
                 num_stuff: int = 2,
                 test_cfg: Optional[dict] = None,
                 head: Optional[dict] = None,
                 **options: Any) -> ConfigDict:
    """Config of a Mask2Former of mmdet with that backbone.

    Args:
        cfg: Config of the vectors.
        num_stuff: How many of the 5 classes are stuff.
        test_cfg: Of the fusion head.
        head: Further arguments of the head.
        options: Further ones of the backbone.
    """
    classes = dict(
        num_things_classes=cfg['num_classes'] - num_stuff,
        num_stuff_classes=num_stuff)
    head = dict(
        dict(
            type='mmcropr.EoMTHead', in_channels=cfg['embed_dim'],
            num_queries=cfg['num_q'], num_blocks=cfg['num_blocks'],
            train_cfg=None, **classes), **(head or {}))  # yapf: disable
    return ConfigDict(
        type='Mask2Former',
        data_preprocessor=dict(
            type='DetDataPreprocessor', mean=MEAN, std=STD, pad_mask=True,
            pad_seg=True),
        backbone=backbone(cfg, **options),
        panoptic_head=head,
        panoptic_fusion_head=dict(
            type='MaskFormerFusionHead', loss_panoptic=None, **classes),
        train_cfg=dict(num_points=cfg['num_points']),
        test_cfg=test_cfg or dict(filter_low_score=True))  # yapf: disable


def detector(cfg: dict, vectors: dict, **options: Any) -> nn.Module:
    """That Mask2Former with the weights of the vectors, in training mode."""
    init_default_scope('mmdet')
    model = MMDET_MODELS.build(detector_cfg(cfg, **options))
    model.load_state_dict(convert(group(vectors, 'state.'))[0])
    return model


def segmentor(cfg: dict, vectors: dict, test_cfg: dict) -> nn.Module:
    """The same as a segmentor of mmseg, in eval mode."""
    init_default_scope('mmseg')
    model = MMSEG_MODELS.build(
        ConfigDict(
            type='EncoderDecoder',
            backbone=backbone(cfg),
            decode_head=dict(
                type='mmcropr.EoMTSegHead', in_channels=cfg['embed_dim'],
                num_classes=cfg['num_classes'], num_queries=cfg['num_q'],
                num_blocks=cfg['num_blocks'], masked_attention=False),
            train_cfg=dict(),
            test_cfg=test_cfg))  # yapf: disable
    model.load_state_dict(
        convert(group(vectors, 'state.'), 'decode_head')[0])
    return model.eval()


def normalise(image: Tensor) -> Tensor:
    """(B, 3, H, W) of 0..255 as the backbone takes it."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    return (image.float() - mean) / std


def samples(vectors: dict, num_things: int = 3) -> List[DetDataSample]:
    """The targets of the vectors, as mmdet's panoptic data set gives them."""
    result = []
    for number in range(2):
        masks = vectors[f'target.{number}.masks']
        labels = vectors[f'target.{number}.labels']
        things = labels < num_things
        stuff = torch.full(masks.shape[1:], 255)
        for mask, label in zip(masks[~things], labels[~things]):
            assert (stuff[mask] == 255).all()
            stuff[mask] = label
        sample = DetDataSample(
            metainfo=dict(
                img_shape=(96, 96), ori_shape=(96, 96),
                batch_input_shape=(96, 96)))  # yapf: disable
        sample.gt_instances = InstanceData(
            labels=labels[things],
            masks=BitmapMasks(masks[things].numpy().astype('uint8'), 96, 96))
        sample.gt_sem_seg = PixelData(sem_seg=stuff[None])
        result.append(sample)
    return result


@contextmanager
def draws(*recorded: Tensor) -> Iterator[None]:
    """Within this ``torch.rand`` gives recorded numbers, in order, of the
    shapes asked for."""
    left, real = list(recorded), torch.rand

    def rand(*shape: Any, **kwargs: Any) -> Tensor:
        shape = tuple(shape[0]) if isinstance(shape[0], (tuple, list)) else (
            shape)
        value = left.pop(0)
        assert tuple(value.shape) == shape, (value.shape, shape)
        return value

    torch.rand = rand
    try:
        yield
    finally:
        torch.rand = real
    assert not left, f'{len(left)} draws were not asked for'
