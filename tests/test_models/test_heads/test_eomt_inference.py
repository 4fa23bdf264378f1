# Copyright (c) mmcropr contributors.
"""The three inferences of EoMT through the hosts' own heads, against numbers
of the authors' implementation."""
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS, TRANSFORMS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor
from torch.nn import functional as F

from tests.eomt import detector, normalise, segmentor
from tests.utils import ROOT, check_close, load_vectors

INSTANCES = dict(
    panoptic_on=False, instance_on=True, max_per_image=10)  # yapf: disable


@pytest.fixture(scope='module')
def reference():
    return load_vectors('eomt')


def blank(size: tuple, original: tuple) -> DetDataSample:
    return DetDataSample(
        metainfo=dict(
            img_shape=size, ori_shape=original,
            batch_input_shape=(96, 96)))  # yapf: disable


def fitted(size: tuple) -> tuple:
    """What an image of this size is resized to."""
    factor = min(96 / size[0], 96 / size[1])
    return tuple(round(side * factor) for side in size)


def check_panoptic(found: Tensor, wanted: Tensor) -> None:
    """Same classes, and the same segments, whatever their numbers.

    Args:
        found: mmdet's map, class + 1000 * instance, (H, W).
        wanted: Class and segment, (H, W, 2); void is class 5 there, too.
    """
    assert torch.equal(found % 1000, wanted[..., 0].int())
    pairs = set(zip(found.flatten().tolist(),
                    map(tuple, wanted.flatten(0, 1).tolist())))
    assert len({a for a, _ in pairs}) == len(pairs)
    assert len({b for _, b in pairs}) == len(pairs)


def check_instances(found, scores: Tensor, labels: Tensor = None) -> Tensor:
    """Same scores and labels in descending order; returns that order."""
    order = found.scores.argsort(descending=True)
    check_close(found.scores[order], scores)
    assert labels is None or torch.equal(found.labels[order], labels)
    return order


def test_panoptic_and_instances(reference):
    cfg, vectors = reference
    image = normalise(vectors['input.image'])
    shapes = [blank((96, 96), (96, 96)) for _ in range(2)]
    off = dict(masked_attention=False)
    model = detector(cfg, vectors, head=off).eval()
    for found, wanted in zip(
            model.predict(image, shapes), vectors['panoptic.map']):
        check_panoptic(found.pred_panoptic_seg.sem_seg[0], wanted)
    model = detector(
        cfg, vectors, num_stuff=0, head=off, test_cfg=INSTANCES).eval()
    for i, found in enumerate(model.predict(image, shapes)):
        found = found.pred_instances
        order = check_instances(found, vectors[f'instance.{i}.scores'],
                                vectors[f'instance.{i}.labels'])
        assert torch.equal(found.masks[order], vectors[f'instance.{i}.masks'])


def test_of_padded_images_at_their_own_size(reference):
    cfg, vectors = reference
    image = normalise(vectors['fit.input'])
    sizes = cfg['orig_sizes_fit']
    shapes = [blank(fitted(size), tuple(size)) for size in sizes]
    off = dict(masked_attention=False)
    model = detector(cfg, vectors, head=off).eval()
    for i, found in enumerate(model.predict(image, shapes)):
        check_panoptic(found.pred_panoptic_seg.sem_seg[0],
                       vectors[f'fit.panoptic.{i}'])
    model = detector(
        cfg, vectors, num_stuff=0, head=off, test_cfg=INSTANCES).eval()
    for i, found in enumerate(model.predict(image, shapes)):
        order = check_instances(
            found.pred_instances, vectors[f'fit.instance_scores.{i}'])
        areas = found.pred_instances.masks[order].flatten(1).sum(1)
        assert torch.equal(areas, vectors[f'fit.instance_area.{i}'])


def test_images_as_the_configs_prepare_them(reference):
    """Resized as Pillow does, padded with black, and only then normalised."""
    cfg, vectors = reference
    name = 'eomt_dinov2-l_4xb4-amp-12e_coco-panoptic-640.py'
    config = Config.fromfile(ROOT / 'configs/no_pruning' / name)
    init_default_scope('mmdet')
    step = next(s for s in config.test_pipeline if s.type == 'Resize')
    resize = TRANSFORMS.build(dict(step, scale=(96, 96)))
    prepare = MODELS.build(
        dict(config.model.data_preprocessor, size=(96, 96)))
    images, samples = [], []
    for i, size in enumerate(cfg['orig_sizes_fit']):
        image = vectors[f'fit.image.{i}'].flip(0).permute(1, 2, 0).numpy()
        image = resize(dict(img=np.ascontiguousarray(image)))['img']
        assert image.shape[:2] == fitted(size)
        images.append(torch.from_numpy(image).permute(2, 0, 1))
        samples.append(blank(fitted(size), tuple(size)))
    found = prepare(dict(inputs=images, data_samples=samples))['inputs']
    torch.testing.assert_close(found, normalise(vectors['fit.input']))


def test_every_rule_of_the_panoptic_map(reference):
    cfg, vectors = reference
    fusion = detector(cfg, vectors).panoptic_fusion_head
    logits = F.interpolate(
        vectors['post.mask_logits'], (96, 96), mode='bilinear')
    for classes, masks, wanted in zip(
            vectors['post.class_logits'], logits, vectors['post.panoptic']):
        found = fusion.panoptic_postprocess(classes, masks)
        check_panoptic(found.sem_seg[0], wanted)


def test_semantic(reference):
    cfg, vectors = reference
    model = segmentor(cfg, vectors, dict(mode='whole'))
    with torch.no_grad():
        scores = model.encode_decode(
            normalise(vectors['input.image']), [dict()])
    check_close(scores[:1], vectors['semantic.scores'])
    assert torch.equal(scores.argmax(1).byte(), vectors['semantic.map'])


@pytest.mark.parametrize('number', [0, 1])
def test_semantic_by_windows(reference, number):
    """Two windows along the longer side, as mmseg slides them."""
    cfg, vectors = reference
    model = segmentor(
        cfg, vectors, dict(mode='slide', crop_size=(96, 96), stride=(96, 96)))
    height, width = cfg['orig_sizes_window'][number]
    factor = max(96 / height, 96 / width)
    image = torch.zeros(3, round(height * factor), round(width * factor))
    for (index, start, end), crop in zip(vectors['window.origins'].tolist(),
                                         vectors['window.crops']):
        if index == number:
            longer = 1 if height > width else 2
            image.narrow(longer, start, end - start).copy_(crop)
    with torch.no_grad():
        scores = model.inference(
            normalise(image[None]), [dict(ori_shape=(height, width))])
        scores = F.interpolate(scores, (height, width), mode='bilinear')
    check_close(scores[0].mean((1, 2)),
                vectors[f'window.scores_mean.{number}'])
    assert torch.equal(scores[0].argmax(0).byte(),
                       vectors[f'window.map.{number}'])
