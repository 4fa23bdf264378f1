# Copyright (c) mmcropr contributors.
"""Against numbers of the authors' implementation (method.md)."""
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmpretrain.structures import DataSample
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.structures import SegDataSample
from torch import nn
from torch.nn import functional as F

from tests.utils import check_close, group, load_tool, load_vectors

convert = load_tool('model_converters/official_cropr.py').convert


def seg_model(cfg: dict) -> nn.Module:
    arch = dict(
        family='eva', embed_dim=cfg['embed_dim'], depth=cfg['depth'],
        num_heads=cfg['num_heads'], mlp_ratio=cfg['mlp_ratio'],
        qkv_fused=False, swiglu_mlp=True, scale_mlp=True,
        use_rot_pos_emb=True, ref_feat_shape=(16, 16))  # yapf: disable
    reducer = dict(
        type='mmcropr.Cropr', rate=cfg['pruning_rate'], align=1,
        num_queries=cfg['num_queries'])  # yapf: disable
    heads = dict(
        in_channels=cfg['embed_dim'], num_classes=cfg['num_classes'])
    init_default_scope('mmseg')
    return MMSEG_MODELS.build(
        dict(
            type='EncoderDecoder',
            backbone=dict(
                type='mmcropr.CroprViT', arch=arch, img_size=cfg['img_size'],
                patch_size=cfg['patch_size'], out_type='tokens',
                reducer=reducer),
            neck=dict(type='mmcropr.LLFNeck'),
            decode_head=dict(type='mmcropr.LinearHead', **heads),
            auxiliary_head=dict(
                type='mmcropr.CroprSegHead', num_modules=4, **heads),
            train_cfg=dict(),
            test_cfg=dict(mode='whole')))  # yapf: disable


def samples(labels: torch.Tensor) -> list:
    result = []
    for label in labels:
        sample = SegDataSample(metainfo=dict(img_shape=label.shape))
        sample.gt_sem_seg = PixelData(data=label[None])
        result.append(sample)
    return result


def check_kept(state: object, wanted: dict, num_prefix: int) -> None:
    """The kept patches of every module, as sets: ours stay in raster order."""
    gone = state.removal_map().flatten(1)
    for module, index in enumerate(wanted.values()):
        stays = (gone == -1) | (gone > module)
        for row, kept in zip(stays, index):
            patches = kept[kept >= num_prefix] - num_prefix
            found = row.nonzero().flatten().tolist()
            assert found == sorted(patches.tolist())


def test_segmentation():
    cfg, vectors = load_vectors('segmentation')
    model = seg_model(cfg)
    state, report = convert(group(vectors, 'state.'))
    assert len(report) == len(group(vectors, 'state.'))
    assert model.load_state_dict(state) is not None  # strict
    image, label = vectors['input.image'], vectors['input.label']

    model.eval()
    with torch.no_grad():
        maps = model.extract_feat(image)
        check_close(model.decode_head(maps), vectors['eval.logits'])
    assert model.backbone.lengths() == cfg['keep_per_module']
    check_kept(maps.state, group(vectors, 'eval.kept_index.'), 1)

    model.train()
    maps = model.extract_feat(image)
    check_close(model.decode_head(maps), vectors['train.logits'])
    aux = group(vectors, 'train.aux_logits.')
    for found, wanted in zip(model.auxiliary_head(maps), aux.values()):
        check_close(found.transpose(1, 2), wanted.flatten(2))

    losses = model.loss(image, samples(label))
    losses = [losses['decode.loss_ce']
              ] + [losses[f'aux.module{i}.loss_ce'] for i in range(4)]
    check_close(torch.stack(losses), vectors['train.losses'])
    sum(losses).backward()
    grads, _ = convert(group(vectors, 'grad.'))
    parameters = dict(model.named_parameters())
    for name, wanted in grads.items():
        check_close(parameters[name].grad, wanted, name)
    assert len(grads) == 6


def cls_model(cfg: dict) -> nn.Module:
    arch = dict(
        family='vit', embed_dim=cfg['embed_dim'], depth=cfg['depth'],
        num_heads=cfg['num_heads'], mlp_ratio=cfg['mlp_ratio'])
    count = len(cfg['tokens_after_module'])
    init_default_scope('mmpretrain')
    return MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(
                type='mmcropr.CroprViT', arch=arch, img_size=cfg['img_size'],
                patch_size=cfg['patch_size'], out_type='tokens',
                reducer=dict(
                    type='mmcropr.Cropr', rate=cfg['pruning_rate'], align=1,
                    modules=range(count))),
            neck=dict(type='mmcropr.PoolNeck', llf=cfg['llf']),
            head=dict(
                type='mmcropr.CroprClsHead', in_channels=cfg['embed_dim'],
                num_classes=cfg['num_classes'], num_modules=count,
                loss=dict(
                    type='LabelSmoothLoss', mode='original',
                    label_smooth_val=cfg['label_smoothing']))))


@pytest.mark.parametrize('name', ['classification_llf',
                                  'classification_no_llf'])
@pytest.mark.parametrize('soft', [False, True])
def test_classification(name, soft):
    cfg, vectors = load_vectors(name)
    model = cls_model(cfg)
    state, report = convert(group(vectors, 'state.'))
    assert len(report) == len(group(vectors, 'state.'))
    model.load_state_dict(state)  # strict
    image, label = vectors['input.image'], vectors['input.label']

    model.eval()
    with torch.no_grad():
        check_close(model(image), vectors['eval.logits'])
    assert model.backbone.lengths() == cfg['tokens_after_module']

    model.train()
    feats = model.extract_feat(image)
    check_close(model.head(feats), vectors['train.logits'])
    aux = model.head.auxiliary(feats)
    for i, wanted in enumerate(group(vectors, 'train.aux_logits.').values()):
        check_close(aux[i][:, 0], wanted)
    labels = [DataSample().set_gt_label(int(x)) for x in label]
    if soft:  # as mixup leaves them
        for sample, x in zip(labels, label):
            sample.set_gt_score(
                F.one_hot(x, cfg['num_classes']).float())
    losses = list(model.loss(image, labels).values())
    check_close(torch.stack(losses), vectors['train.losses'])
    sum(losses).backward()
    grads, _ = convert(group(vectors, 'grad.'))
    parameters = dict(model.named_parameters())
    for key, wanted in grads.items():
        check_close(parameters[key].grad, wanted, key)
    assert grads
