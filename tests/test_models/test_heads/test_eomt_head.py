# Copyright (c) mmcropr contributors.
import pytest
import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures.mask import BitmapMasks
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmcropr.models.checks import check_model
from tests.eomt import (convert, detector, detector_cfg, normalise, samples,
                        segmentor)
from tests.utils import (TINY_EVA, check_close, group, load_vectors,
                         randomise_layer_scale)

CROPR = dict(type='mmcropr.Cropr', num_queries='image', align=1)
DINOV3 = dict(
    name='vit_small_patch16_dinov3_qkvb', embed_dim=48, depth=6,
    num_heads=3)  # yapf: disable


@pytest.fixture(scope='module')
def reference():
    return load_vectors('eomt')


def build(cfg, num_stuff=2, **options):
    init_default_scope('mmdet')
    return MMDET_MODELS.build(detector_cfg(cfg, num_stuff, **options))


def image_of(reference):
    return normalise(reference[1]['input.image'])


def test_rate_zero_is_eomt_without_reducers(reference):
    plain = detector(*reference)
    cfg = detector_cfg(reference[0], reducer=dict(CROPR, rate=0))
    pruned = MMDET_MODELS.build(cfg)
    state = convert(group(reference[1], 'state.'))[0]
    missing = pruned.load_state_dict(state, strict=False)[0]
    assert missing and all('reducers' in key for key in missing)
    assert pruned.backbone.num_modules == 2
    with torch.no_grad():
        found, wanted = (
            m.panoptic_head(m.extract_feat(image_of(reference)))
            for m in (pruned, plain))
    for a, b in zip(found[0] + found[1], wanted[0] + wanted[1]):
        assert torch.equal(a, b)


def test_every_token_is_back_where_queries_join(reference):
    model = build(reference[0], reducer=dict(CROPR, keep=[23, 13]))
    with torch.no_grad():
        state = model.extract_feat(image_of(reference))
        assert state.length == 13
        classes, masks = model.panoptic_head(state)
    assert state.num_prefix == 5 + 7 and state.length == 12 + 36
    assert masks[-1].shape == (2, 7, 24, 24) and len(classes) == 4
    assert (state.removal_map() >= 0).sum() == 2 * (41 - 13)


@pytest.mark.parametrize('arch', [DINOV3, dict(TINY_EVA, embed_dim=48,
                                               depth=6, num_heads=3)])
@pytest.mark.parametrize('keep', [None, [23, 13]])
def test_queries_carry_no_position(reference, arch, keep):
    """As timm's own blocks with the queries among their prefix tokens."""
    reducer = keep and dict(CROPR, keep=keep)
    model = build(reference[0], arch=arch, reducer=reducer).eval()
    head, vit = model.panoptic_head, model.backbone.vit
    randomise_layer_scale(vit)
    for name, parameter in vit.named_parameters():
        if parameter.dim() > 1:  # attention far from uniform
            torch.nn.init.normal_(parameter, std=.3)
    head.masked_attention = False
    state = model.extract_feat(image_of(reference))
    x, prefix = state.full(), state.origin.num_prefix
    with torch.no_grad():
        classes, _ = head(state)
        queries = head.query_feat.weight.expand(2, -1, -1)
        x = torch.cat([queries, x], dim=1)
        for block in vit.blocks[3:]:
            block.attn.num_prefix_tokens = prefix + 7
            x = block(x, state.origin.rope)
    check_close(classes[0], head.cls_embed(vit.norm(x)[:, :7]))


def test_evaluation_goes_by_masks_as_long_as_training_does(reference):
    model = detector(*reference).eval()
    head = model.panoptic_head
    head.attn_mask_probs.copy_(torch.tensor([0., 1., 0.]))
    with torch.no_grad():
        classes, masks = head(model.extract_feat(image_of(reference)))
        wanted = head.train()(model.extract_feat(image_of(reference)))
    assert len(classes) == 2 and len(wanted[0]) == 4
    assert torch.equal(classes[-1], wanted[0][-1])
    assert torch.equal(masks[-1], wanted[1][-1])


def test_probabilities_that_an_ema_writes(reference):
    """It writes into .data, which leaves no trace, and then evaluates."""
    head = detector(*reference).panoptic_head.train()
    assert head._probs() == [1.] * 3
    head.attn_mask_probs.data.copy_(torch.zeros(3))
    head.eval()
    assert head._probs() == [0.] * 3


def test_probabilities_are_read_once(reference, monkeypatch):
    """Loops that count iterations call train() in each; what is on a GPU
    has to be waited for."""
    head, reads = detector(*reference).panoptic_head.train(), []
    read = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, 'tolist',
                        lambda x: reads.append(x) or read(x))
    for _ in range(3):
        head.train()._probs()
    assert len(reads) == 1


def test_images_off_the_patch_size(reference):
    """Masks lie on the pixels of the image, not of its padding."""
    model = detector(*reference).eval()
    image = image_of(reference)[..., :90, :70]
    with torch.no_grad():
        state = model.extract_feat(image)
        _, masks = model.panoptic_head.predict(state, [])
        padded = model.panoptic_head.to_image(
            masks.new_ones(2, 7, 24, 20), state)
    assert masks.shape[-2:] == padded.shape[-2:] == (90, 70)


def test_images_without_objects(reference):
    model = build(reference[0])
    empty = samples(reference[1], 0)
    for sample in empty:
        sample.gt_instances = sample.gt_instances[:0]
        sample.gt_sem_seg.sem_seg.fill_(255)
    losses = model.loss(image_of(reference), empty)
    sum(v.sum() for v in losses.values()).backward()
    assert all(torch.isfinite(v).all() for v in losses.values())
    assert all(p.grad is not None for p in model.parameters())


def test_half_precision(reference):
    """Of the whole model; losses are single."""
    model = detector(*reference)
    with torch.autocast('cpu', torch.bfloat16):
        losses = model.loss(image_of(reference), samples(reference[1]))
    assert {v.dtype for v in losses.values()} == {torch.float32}
    sum(v.sum() for v in losses.values()).backward()


@pytest.mark.parametrize('options, message', [
    (dict(fuse_at=-2), "out_type='tokens' and fuse_at=-3, and has out_type="
     "'tokens' and fuse_at=4"),
    (dict(out_type='featmap'), "has out_type='featmap'"),
    (dict(head=dict(in_channels=64)), 'in_channels=64, the backbone gives 48'),
])
def test_model_whose_parts_do_not_fit(reference, options, message):
    check_model(build(reference[0]))
    with pytest.raises(ValueError, match=message):
        check_model(build(reference[0], **options))


def test_neck_in_the_way(reference):
    cfg = detector_cfg(reference[0])
    cfg.neck = dict(type='mmcropr.LLFNeck')
    init_default_scope('mmdet')
    model = MMDET_MODELS.build(cfg)
    with pytest.raises(ValueError, match=r'leave the neck \(LLFNeck\) out'):
        check_model(model)
    with pytest.raises(TypeError, match='takes the TokenState.*FeatureMaps'):
        model.loss(image_of(reference), samples(reference[1]))


@pytest.mark.parametrize('options, message', [
    (dict(head=dict(num_queries=0)), 'num_queries must be 1 or more, got 0'),
    (dict(head=dict(num_blocks=0)), 'num_blocks must be 1 or more, got 0'),
    (dict(fuse_at=-9), 'fuse_at=-9 is no block from 1 to 5'),
    (dict(reducer=dict(CROPR, keep=[9], modules=[3])),
     'all tokens are back before block 3'),
    (dict(reducer=dict(CROPR, rate=20)), 'leaves no patch'),
])
def test_refuses_settings(reference, options, message):
    with pytest.raises(ValueError, match=message):
        build(reference[0], **options)


def test_refuses_samples(reference):
    model, image = build(reference[0]), image_of(reference)
    wrong = samples(reference[1])
    instances = wrong[1].gt_instances
    instances.masks = BitmapMasks(
        instances.masks.masks[:, :80], 80, 96)  # yapf: disable
    with pytest.raises(ValueError, match='80 x 96 px, images .* 96 x 96'):
        model.loss(image, wrong)
    wrong = samples(reference[1])
    del wrong[0].gt_sem_seg
    with pytest.raises(ValueError, match='num_stuff_classes=2.*gt_sem_seg'):
        model.loss(image, wrong)


def test_remaining_blocks_of_another_number(reference):
    model = build(reference[0], fuse_at=-2)
    with pytest.raises(ValueError, match='2 blocks remain .*num_blocks=3'):
        model.loss(image_of(reference), samples(reference[1]))


def semantic_samples(size=(96, 96)):
    labels = torch.full((1, *size), 255)
    labels[:, :40] = 1
    labels[:, 40:60] = 4
    sample = SegDataSample()
    sample.gt_sem_seg = PixelData(data=labels)
    return [sample, sample]


def test_segmentor_trains(reference):
    model = segmentor(*reference, test_cfg=dict(mode='whole')).train()
    model.decode_head.masked_attention = True
    check_model(model)
    losses = model.loss(image_of(reference), semantic_samples())
    assert len(losses) == 12
    sum(v.sum() for v in losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises(ValueError, match='80 x 96 px, images .* 96 x 96'):
        model.loss(image_of(reference), semantic_samples((80, 96)))


def panoptic_detector(cfg, auxiliary, **reducer):
    init_default_scope('mmdet')
    inside = detector_cfg(cfg, reducer=dict(CROPR, keep=[23, 13], **reducer))
    return MODELS.build(
        dict(
            type='mmcropr.CroprDetector', detector=inside,
            auxiliary_head=auxiliary))  # yapf: disable


@pytest.mark.parametrize('kind, reducer, options', [
    ('CroprMultiLabelHead', dict(), dict()),
    ('CroprSegHead', dict(num_queries='patch'), dict()),
])
def test_trains_cropr(reference, kind, reducer, options):
    model = panoptic_detector(
        reference[0], dict(type=f'mmcropr.{kind}', **options), **reducer)
    losses = model.loss(image_of(reference), samples(reference[1]))
    assert sum(key.startswith('aux.module') for key in losses) == 2
    sum(v.sum() for v in losses.values()).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None


def test_stuff_counts_for_the_auxiliary_head(reference):
    model = panoptic_detector(
        reference[0],
        dict(type='mmcropr.CroprMultiLabelHead'))
    truth = samples(reference[1])
    state = model.detector.extract_feat(image_of(reference))
    found = model.auxiliary_head.targets(state, truth)
    wanted = torch.zeros(2, 5)
    for row, number in zip(wanted, range(2)):
        row[reference[1][f'target.{number}.labels']] = 1
    assert torch.equal(found, wanted)
    del truth[0].gt_sem_seg
    with pytest.raises(ValueError, match='classes from 3 on are stuff'):
        model.auxiliary_head.targets(state, truth)
