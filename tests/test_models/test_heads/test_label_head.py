# Copyright (c) mmcropr contributors.
"""Auxiliary heads of classifiers, beside any head of mmpretrain."""
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.structures import DataSample, MultiTaskDataSample
from torch.nn import functional as F

from mmcropr.models import CroprLabelHead, CroprViT
from mmcropr.models.checks import check_model
from mmcropr.utils.build import plain_model
from tests.utils import TINY

TASKS = dict(
    digit=dict(type='LinearClsHead', num_classes=5),
    colours=dict(type='MultiLabelLinearClsHead', num_classes=3))


def model_cfg(head, **auxiliary):
    return dict(
        type='mmcropr.CroprClassifier',
        data_preprocessor=dict(num_classes=5),
        backbone=dict(
            type='mmcropr.CroprViT', arch=TINY, img_size=64, out_type='tokens',
            reducer=dict(type='mmcropr.Cropr', rate=4, align=1)),
        neck=dict(type='mmcropr.PoolNeck'),
        head=head,
        auxiliary_head=dict(type='mmcropr.CroprLabelHead', **auxiliary))


def build(*args, **options):
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build(model_cfg(*args, **options)).train()
    check_model(model)
    return model


def run(model, samples):
    """Losses of a step whose gradients reach every weight."""
    torch.manual_seed(1)
    image = torch.rand(len(samples), 3, 64, 64)
    losses = model.loss(image, samples)
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    assert all(p.grad is not None for p in model.parameters())
    assert all(r.queries.grad.abs().max() > 0 for r in model.backbone.reducers)
    return losses, model.extract_feat(image)


def test_several_labels():
    model = build(dict(type='MultiLabelLinearClsHead', num_classes=5))
    samples = [DataSample().set_gt_label(x) for x in ([1, 3], [2], [0, 1, 4])]
    losses, feats = run(model, samples)
    assert sorted(losses) == ['aux.module0.loss', 'aux.module1.loss', 'loss']
    targets = torch.tensor([[0., 1, 0, 1, 0], [0, 0, 1, 0, 0],
                            [1, 1, 0, 0, 1]])
    for i, logits in enumerate(model.auxiliary_head(feats)):
        wanted = F.binary_cross_entropy_with_logits(
            logits[:, 0], targets, reduction='none').sum() / 3
        torch.testing.assert_close(losses[f'aux.module{i}.loss'], wanted)
    with torch.no_grad():
        found = model.eval().predict(torch.rand(1, 3, 64, 64))
    assert found[0].pred_score.shape == (5, )


def test_several_labels_for_one():
    head = CroprLabelHead(32, 5, 2)
    state = CroprViT(
        TINY, img_size=64, out_type='tokens', reducer=dict(
            type='mmcropr.Cropr', rate=4))(torch.rand(1, 3, 64, 64))
    for labels in ([1, 3], []):
        sample = DataSample().set_gt_label(torch.tensor(labels).long())
        with pytest.raises(ValueError, match=f'an image has {len(labels)} '
                           'labels: .* multi_label=True'):
            head.loss(state, [sample])


@pytest.mark.parametrize('head', [
    dict(type='ArcFaceClsHead'), dict(type='LinearClsHead'),
    dict(type='StackedLinearClsHead', mid_channels=[8]),
    dict(type='LinearClsHead', loss=dict(
        type='LabelSmoothLoss', label_smooth_val=.1))])
def test_beside_other_heads(head):
    """With the loss of the main head, which stays a part of that alone."""
    model = build(dict(head, num_classes=5))
    samples = [DataSample().set_gt_label(i) for i in range(3)]
    losses, feats = run(model, samples)
    logits = model.auxiliary_head(feats)[0][:, 0]
    wanted = model.head.loss_module(logits, torch.arange(3))
    torch.testing.assert_close(losses['aux.module0.loss'], wanted)
    assert not hasattr(model.auxiliary_head, 'loss_module')


def task_samples(*present):
    samples = []
    for number, names in enumerate(present):
        sample = MultiTaskDataSample()
        labels = dict(digit=number, colours=[0, number % 3])
        for name in names:
            sample.set_field(DataSample().set_gt_label(labels[name]), name)
        samples.append(sample)
    return samples


@pytest.mark.parametrize('task', TASKS)
def test_one_of_several_tasks(task):
    """Images without labels of the task are left out."""
    model = build(dict(type='MultiTaskHead', task_heads=TASKS), task=task)
    assert model.auxiliary_head.multi_label == (task == 'colours')
    assert model.auxiliary_head.num_classes == TASKS[task]['num_classes']
    samples = task_samples([task], ['digit', 'colours'], list(TASKS)[:1],
                           list(TASKS)[1:])
    losses, feats = run(model, samples)
    there = [i for i, s in enumerate(samples) if task in s]
    assert 0 < len(there) < 4
    head = model.head.task_heads[task]
    found = head._get_loss(
        model.auxiliary_head(feats)[1][there, 0],
        [samples[i].get(task) for i in there])['loss']
    torch.testing.assert_close(losses['aux.module1.loss'], found)
    none = task_samples(*[[name for name in TASKS if name != task]] * 2)
    losses = model.loss(torch.rand(2, 3, 64, 64), none)
    assert losses['aux.module0.loss'] == 0


def test_wrong_tasks():
    head = dict(type='MultiTaskHead', task_heads=TASKS)
    with pytest.raises(ValueError, match=r"task='name', and the tasks of the "
                       r"head are \['colours', 'digit'\]"):
        build(head, task='name')
    inside = dict(
        digit=dict(type='mmcropr.CroprClsHead', num_classes=5, num_modules=2))
    with pytest.raises(ValueError, match='MultiTaskHead hands maps on without '
                       'the token state.*auxiliary_head=.*task='):
        build(dict(type='MultiTaskHead', task_heads=inside), task='digit')


def test_plain_model():
    cfg = model_cfg(dict(type='ArcFaceClsHead', num_classes=5))
    model = build(cfg['head'])
    plain = MODELS.build(plain_model(ConfigDict(cfg))).eval()
    assert plain.auxiliary_head is None
    found = plain.load_state_dict(model.state_dict(), strict=False)
    assert not found.missing_keys
    assert {key.split('.')[0] for key in found.unexpected_keys} == {
        'auxiliary_head'}
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert plain(image).equal(model.eval()(image))
