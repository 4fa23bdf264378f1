# Copyright (c) mmcropr contributors.
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mmcropr.models import CroprMultiLabelHead, CroprViT
from mmcropr.models.checks import check_model
from tests.utils import TINY, tiny_digits_config


def backbone_state(num_queries=1, batch=3):
    torch.manual_seed(0)
    backbone = CroprViT(
        TINY, img_size=64, patch_size=16, out_type='tokens',
        reducer=dict(
            type='mmcropr.Cropr', rate=2, align=1, num_queries=num_queries))
    return backbone, backbone(torch.rand(batch, 3, 64, 64))


class Sample:
    """What the head reads of a ``DetDataSample``."""

    def __init__(self, labels, bboxes=None, img_path='a.jpg'):
        self.gt_instances = InstanceData(labels=torch.tensor(
            labels, dtype=torch.long))
        if bboxes is not None:
            self.gt_instances.bboxes = torch.tensor(bboxes).reshape(-1, 4)
        self.img_path = img_path


def head(**options):
    options = dict(
        dict(in_channels=32, num_classes=4, num_modules=2), **options)
    torch.manual_seed(1)
    return CroprMultiLabelHead(**options)


def test_targets():
    """A class counts once, an empty image as nothing, a box without area and
    what mmdet keeps apart as ignored not at all."""
    _, state = backbone_state(batch=4)
    box, flat = [1., 1., 5., 5.], [3., 3., 3., 9.]
    samples = [
        Sample([2, 0, 2], [box] * 3),
        Sample([], []),
        Sample([1, 3], [flat, box]),
        Sample([1]),
    ]
    samples[1].ignored_instances = InstanceData(labels=torch.tensor([3]))
    found = head().targets(state, samples)
    assert found.tolist() == [[1, 0, 1, 0], [0] * 4, [0, 0, 0, 1],
                              [0, 1, 0, 0]]


def test_loss_by_hand():
    backbone, state = backbone_state()
    module = head(loss_weight=2.)
    samples = [Sample([0]), Sample([]), Sample([1, 3])]
    losses = module.loss(state, samples)
    assert list(losses) == ['module0.loss_bce', 'module1.loss_bce']
    targets = torch.tensor([[1., 0, 0, 0], [0] * 4, [0, 1, 0, 1]])
    for i, route in enumerate(state.records):
        tokens = route.tokens
        weights = (route.read()[0] / 32**.5).softmax(-1)
        x = (weights @ tokens)
        x = x + module.aggregators[i].mlp(module.aggregators[i].norm(x))
        logits = module.fcs[i](module.norms[i](x))[:, 0]
        probability = logits.sigmoid()
        wanted = -(targets * probability.log() + (1 - targets) *
                   (1 - probability).log()).mean()
        torch.testing.assert_close(losses[f'module{i}.loss_bce'], 2 * wanted)
    sum(losses.values()).backward()
    assert all(r.queries.grad.abs().max() > 0 for r in backbone.reducers)
    assert all(p.grad is None for p in backbone.vit.parameters())


def test_mean_over_images():
    """So two processes with half the batch each give the same."""
    _, state = backbone_state()
    module, samples = head(), [Sample([0]), Sample([]), Sample([1, 3])]
    logits = module(state)[0]
    targets = module.targets(state, samples)
    whole = module.loss_by_logits(logits, targets)['loss_bce']
    single = [
        module.loss_by_logits(logits[i:i + 1], targets[i:i + 1])['loss_bce']
        for i in range(3)]
    torch.testing.assert_close(whole, sum(single) / 3)


def test_half_precision_logits():
    loss = head().loss_by_logits(
        torch.full((1, 1, 4), 30., dtype=torch.float16), torch.ones(1, 4))
    wanted = F.binary_cross_entropy_with_logits(
        torch.full((1, 4), 30.), torch.ones(1, 4))
    torch.testing.assert_close(loss['loss_bce'], wanted)
    assert loss['loss_bce'].dtype == torch.float32


@pytest.mark.parametrize('labels', [[4], [0, -1]])
def test_label_outside_the_classes(labels):
    _, state = backbone_state(batch=1)
    with pytest.raises(ValueError, match='of bad.jpg are not all in 0 .. 3'):
        head().loss(state, [Sample(labels, img_path='bad.jpg')])


def test_one_query():
    backbone, state = backbone_state(num_queries=16)
    with pytest.raises(ValueError,
                       match='num_queries=16.*set num_queries=.image'):
        head().check_backbone(backbone)
    with pytest.raises(ValueError, match='num_queries=16'):
        head().loss(state, [Sample([0])] * 3)


def test_aggregator_without_its_mlp():
    _, state = backbone_state()
    module = head(mlp_ratio=0)
    assert not [n for n, _ in module.named_parameters() if 'mlp' in n]
    route = state.records[0]
    logits, tokens = route.read()
    wanted = (logits / 32**.5).softmax(-1) @ tokens
    torch.testing.assert_close(module.aggregators[0](logits, tokens), wanted)
    module.loss(state, [Sample([0])] * 3)


def with_map(values, kind='data', **metainfo):
    """A sample of mmseg, or of mmdet with ``sem_seg``."""
    labels = torch.tensor(values)[None]
    return BaseDataElement(
        gt_sem_seg=PixelData(**{kind: labels}), metainfo=metainfo)


@pytest.mark.parametrize('kind', ['data', 'sem_seg'])
def test_classes_of_label_maps(kind):
    """Of a segmentor, whose images have no instances."""
    _, state = backbone_state()
    samples = [with_map([[0, 0, 3], [255, 0, 3]], kind),
               with_map([[255] * 3] * 2, kind), with_map([[2, 1, 2]], kind)]
    found = head().targets(state, samples)
    assert found.tolist() == [[1, 0, 0, 1], [0] * 4, [0, 1, 1, 0]]
    found = head(ignore_index=0).targets(state, [
        with_map([[0, 3]], kind)] * 3)  # yapf: disable
    assert found.tolist() == [[0, 0, 0, 1]] * 3


class NoNumbers(TorchDispatchMode):
    """No number of Python's is written by a tensor of places: a GPU gets a
    copy of it, and nothing else runs meanwhile."""

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if 'index_put' in str(op) and not args[2].dim():
            raise RuntimeError(f'{op} copies a number')
        return op(*args, **kwargs or {})


def test_label_maps_without_copies_of_numbers():
    _, state = backbone_state()
    with NoNumbers():
        found = head().targets(state, [with_map([[0, 3]])] * 3)
    assert found.tolist() == [[1, 0, 0, 1]] * 3


@pytest.mark.parametrize('sample, message', [
    (with_map([[4, 0, 255]]), r'labels \[4\] of label maps .* 0 .. 3'),
    (with_map([[0, -1]]), r'labels \[-1\] of label maps'),
    (BaseDataElement(metainfo=dict(img_path='a.jpg')),
     'learns from gt_instances or gt_sem_seg, and a.jpg has neither')])
def test_label_maps_that_do_not_fit(sample, message):
    _, state = backbone_state()
    with pytest.raises(ValueError, match=message):
        head().targets(state, [with_map([[0, 1]]), sample, sample])


def test_a_segmentor_with_one_query(digits, tmp_path):
    """Its queries learn, and nothing reaches the backbone from them."""
    init_default_scope('mmseg')
    cfg = tiny_digits_config(digits, tmp_path).model
    cfg.backbone.reducer.num_queries = 'image'
    cfg.auxiliary_head = dict(type='mmcropr.CroprMultiLabelHead', **{
        name: cfg.auxiliary_head[name]
        for name in ('in_channels', 'num_classes', 'num_modules')})
    model = MODELS.build(cfg)
    check_model(model)
    sample = with_map([[0, 3] * 32] * 64, img_shape=(64, 64))
    losses = model.loss(torch.rand(2, 3, 64, 64), [sample] * 2)
    auxiliary = [losses[name] for name in losses if 'loss_bce' in name]
    assert len(auxiliary) == cfg.auxiliary_head.num_modules
    sum(auxiliary).backward()
    learned = {name for name, p in model.named_parameters()
               if p.grad is not None and p.grad.any()}
    assert any('queries' in name for name in learned)
    assert all('queries' in name or name.startswith('auxiliary_head')
               for name in learned)
