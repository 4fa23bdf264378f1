# Copyright (c) mmcropr contributors.
"""Formulas and gradients are checked in test_zoo_vectors.py; here: that they
reach the models of every task, with and without a teacher."""
import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.structures import DataSample

from mmcropr.models.checks import check_model
from mmcropr.models.reducers import DynamicViT
from mmcropr.utils.build import plain_model
from tests.utils import TINY, tiny_detector_config

REDUCER = dict(type='mmcropr.DynamicViT', keep=[9, 5], modules=[0, 1], align=1)


def model_cfg(reducer=REDUCER, **head):
    return dict(
        type='ImageClassifier',
        data_preprocessor=dict(num_classes=5),
        backbone=dict(
            type='mmcropr.CroprViT', arch=TINY, img_size=64,
            out_type='tokens', reducer=reducer),
        neck=dict(type='mmcropr.PoolNeck', llf=False),
        head=dict(type='mmcropr.DynamicViTClsHead', in_channels=32,
                  num_classes=5, **head))


def build(cfg):
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    return MODELS.build(cfg)


def batch(count=4):
    torch.manual_seed(1)
    return dict(
        inputs=torch.randn(count, 3, 64, 64),
        data_samples=[DataSample().set_gt_label(i) for i in range(count)])


def teacher_cfg():
    return dict(
        default_scope='mmpretrain',
        model=dict(
            model_cfg(reducer=None),
            head=dict(type='LinearClsHead', in_channels=32, num_classes=5)))


@pytest.fixture
def teacher(tmp_path):
    """Arguments of the head for a teacher that was saved."""
    cfg = teacher_cfg()
    model = build(cfg['model'])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    path = tmp_path / 'teacher.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return dict(teacher_config=cfg, teacher_ckpt=str(path))


def test_without_teacher():
    model = build(model_cfg()).train()
    check_model(model)
    losses = model(**batch(), mode='loss')
    assert set(losses) == {'loss', 'aux.loss_ratio'}
    model.parse_losses(losses)[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
    for module in model.backbone.reducers:
        assert sum(p.grad.abs().sum() for p in module.parameters()) > 0


def test_ratio_loss_moves_the_share():
    """Training on it alone brings the decisions to the schedule."""
    model = build(model_cfg()).train()
    reducers = model.backbone.reducers
    optimiser = torch.optim.Adam(reducers.parameters(), lr=3e-3)
    data, gaps = batch(8), []
    for _ in range(60):
        state = model.neck(model.backbone(data['inputs'])).state
        gaps.append(abs(state.records[-1].keep.mean().item()
                        - state.records[-1].share))
        loss = model.head.auxiliary.loss(state)['loss_ratio']
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert state.records[-1].share == 4 / 16
    assert sum(gaps[-10:]) / 10 < 0.06
    # A patch that left once does not return
    first, second = (d.keep.detach() for d in state.records)
    assert (second <= first).all() and 0 < second.sum() < first.sum()


def test_teacher(teacher):
    plain = build(model_cfg())
    model = build(model_cfg(auxiliary=teacher))
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert len(list(model.parameters())) == len(list(plain.parameters()))
    model.init_weights()
    check_model(model)
    teacher = model.head.auxiliary.teacher.model
    before = [p.clone() for p in teacher.parameters()]
    losses = model.train()(**batch(), mode='loss')
    assert set(losses) == {
        'loss', 'aux.loss_ratio', 'aux.loss_token', 'aux.loss_class'}
    assert all(float(v) > 0 for v in losses.values())
    model.parse_losses(losses)[0].backward()
    assert not teacher.training
    for one, two in zip(teacher.parameters(), before):
        assert one.equal(two) and not one.requires_grad


def test_the_copy_of_an_ema_has_the_same_teacher(teacher):
    model = build(model_cfg(auxiliary=teacher))
    ours, theirs = (m.head.auxiliary.teacher.model
                    for m in (model, copy.deepcopy(model)))
    assert ours is theirs


def test_a_student_like_its_teacher_has_nothing_to_learn(teacher):
    """Same weights, all patches kept: no gap to the teacher."""
    model = build(model_cfg(auxiliary=teacher)).train()
    head = model.head.auxiliary
    head.teacher.load()
    model.load_state_dict(head.teacher.model.state_dict(), strict=False)
    for module in model.backbone.reducers:
        module.noise = lambda x: torch.tensor([1e4, 0.]).expand_as(x)
    losses = model(**batch(), mode='loss')
    # attention by a policy of ones is softmax up to its epsilon
    assert float(losses['aux.loss_token']) < 1e-9
    assert abs(float(losses['aux.loss_class'])) < 1e-6


@pytest.mark.parametrize('kind', ['mse', 'kl'])
def test_teacher_of_a_segmentor(kind, tmp_path):
    init_default_scope('mmseg')
    torch.manual_seed(0)

    def cfg(reducer, auxiliary):
        return dict(
            type='EncoderDecoder',
            backbone=dict(type='mmcropr.CroprViT', arch=TINY, img_size=64,
                          out_type='tokens', reducer=reducer),
            neck=dict(type='mmcropr.LLFNeck'),
            decode_head=dict(type='mmcropr.LinearHead', in_channels=32,
                             num_classes=3),
            auxiliary_head=auxiliary, train_cfg=dict(),
            test_cfg=dict(mode='whole'))

    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    samples = []
    for _ in range(2):
        sample = SegDataSample()
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 3, (1, 64, 64)))
        samples.append(sample)
    plain = cfg(None, None)
    path = tmp_path / 'plain.pth'
    torch.save(MODELS.build(plain).state_dict(), path)
    model = MODELS.build(cfg(REDUCER, dict(
        type='mmcropr.DynamicViTHead', token_loss=kind, teacher_ckpt=str(path),
        teacher_config=dict(model=plain, default_scope='mmseg')))).train()
    check_model(model)
    losses = model(torch.randn(2, 3, 64, 64), samples, mode='loss')
    assert {'aux.loss_ratio', 'aux.loss_token'} <= set(losses)
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is not None for p in model.backbone.parameters())
    # The patches that were decided against come back as they left
    state = model.extract_feat(torch.randn(2, 3, 64, 64)).state
    assert state.mask is None and state.removal_map().max() == 1


def test_plain_model():
    """Nothing of it is left after training."""
    cfg = Config(dict(model=model_cfg(auxiliary=dict(ratio_weight=1.))))
    plain = plain_model(cfg.model)
    assert plain.head == dict(type='mmpretrain.LinearClsHead', in_channels=32,
                              num_classes=5)
    trained, deployed = build(model_cfg()).eval(), build(plain).eval()
    deployed.load_state_dict(trained.state_dict())
    image = batch()['inputs']
    with torch.no_grad():
        assert trained(image, mode='tensor')[0].equal(
            deployed(image, mode='tensor')[0])


def test_with_checkpointing():
    """Recomputed blocks attend by the same decisions."""
    grads = []
    for with_cp in (False, True):
        cfg = model_cfg()
        cfg['backbone']['with_cp'] = with_cp
        model = build(cfg).train()
        torch.manual_seed(2)
        losses = model(**batch(), mode='loss')
        model.parse_losses(losses)[0].backward()
        grads.append([p.grad for p in model.parameters()])
    for one, two in zip(*grads):
        torch.testing.assert_close(one, two)


def test_modules_with_nothing_to_do():
    """Nothing leaves, and their predictors still get a gradient."""
    cfg = model_cfg(reducer=dict(
        type='mmcropr.DynamicViT', rate=[0, 8], align=1))
    model = build(cfg).train()
    state = model.backbone(batch()['inputs'])
    assert state.records[0].share == 1 and state.records[0].keep.eq(1).all()
    assert state.records[1].share == 7 / 16 and not state.records[1].keep.all()
    losses = model(**batch(), mode='loss')
    model.parse_losses(losses)[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
    plain = build(model_cfg(reducer=dict(
        type='mmcropr.DynamicViT', rate=0))).train()
    losses = plain(**batch(), mode='loss')
    assert float(losses['aux.loss_ratio']) == 0.


@pytest.mark.parametrize('prefix', [False, True])
def test_images_without_a_patch_left(prefix, monkeypatch):
    """All decided against, with and without a class token."""
    monkeypatch.setattr(DynamicViT, 'noise', lambda self, x: torch.tensor(
        [-1e4, 0.]).expand_as(x))
    cfg = model_cfg()
    cfg['backbone']['arch'] = dict(TINY, class_token=prefix, global_pool='')
    model = build(cfg).train()
    losses = model(**batch(), mode='loss')
    total = model.parse_losses(losses)[0]
    total.backward()
    assert torch.isfinite(total)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(
            parameter.grad).all(), name


def test_teacher_with_maps_of_other_blocks(teacher):
    """All blocks of a teacher run, whatever its own heads take."""
    image = batch()['inputs']
    head = build(model_cfg(auxiliary=teacher)).head.auxiliary
    wanted, _ = head.teacher(image, classify=False)
    cfg = dict(teacher['teacher_config'])
    cfg['model'] = dict(cfg['model'], backbone=dict(
        cfg['model']['backbone'], out_type='featmap', out_indices=(1, )))
    other = build(model_cfg(auxiliary=dict(
        teacher, teacher_config=cfg))).head.auxiliary.teacher
    assert other(image, classify=False)[0].equal(wanted)


def test_bad_input(teacher, tmp_path):
    with pytest.raises(ValueError, match="'mse' or 'kl', got 'l1'"):
        build(model_cfg(auxiliary=dict(token_loss='l1')))
    with pytest.raises(ValueError, match='ratio_weight=-1'):
        build(model_cfg(auxiliary=dict(ratio_weight=-1)))
    with pytest.raises(ValueError, match='class_weight must be 0 or more'):
        build(model_cfg(class_weight=-1.))
    with pytest.raises(ValueError, match='needs teacher_ckpt'):
        build(model_cfg(auxiliary=dict(teacher_config=teacher_cfg())))
    with pytest.raises(ValueError, match='needs teacher_config'):
        build(model_cfg(auxiliary=dict(teacher_ckpt='x.pth')))
    pruned = dict(model=model_cfg())
    with pytest.raises(ValueError, match='the teacher has a reducer'):
        check_model(build(model_cfg(auxiliary=dict(
            teacher, teacher_config=pruned))))
    wide = model_cfg(auxiliary=teacher)
    wide['head']['num_classes'] = 6
    with pytest.raises(ValueError, match='num_classes=5, the model 6'):
        check_model(build(wide))
    other = model_cfg(auxiliary=teacher)
    other['backbone']['patch_size'] = 8
    with pytest.raises(ValueError, match=r'patch_size=\(16, 16\), the model '
                       r'\(8, 8\)'):
        check_model(build(other))
    pooled = dict(teacher_cfg())
    pooled['model'] = dict(pooled['model'],
                           neck=dict(type='GlobalAveragePooling'))
    with pytest.raises(ValueError, match='is GlobalAveragePooling; a teacher '
                       'of classes needs.*PoolNeck'):
        check_model(build(model_cfg(auxiliary=dict(
            teacher, teacher_config=pooled))))
    torch.save(dict(weight=torch.ones(2)), tmp_path / 'foreign.pth')
    foreign = dict(teacher, teacher_ckpt=str(tmp_path / 'foreign.pth'))
    model = build(model_cfg(auxiliary=foreign))
    with pytest.raises(ValueError, match='no checkpoint of this model'):
        model.init_weights()


def test_heads_and_reducers_that_do_not_match():
    cropr = dict(REDUCER, type='mmcropr.Cropr')
    with pytest.raises(ValueError, match='Cropr learns .* DynamicViTHead '
                       "reads something else: add .*mmcropr.CroprClsHead"):
        check_model(build(model_cfg(cropr)))
    with pytest.raises(ValueError, match='Random leaves nothing that '
                       'DynamicViTHead could learn from: remove this head'):
        check_model(build(model_cfg(dict(REDUCER, type='mmcropr.Random'))))
    plain = model_cfg()
    plain['head']['type'] = 'LinearClsHead'
    with pytest.raises(ValueError, match='DynamicViT learns through an aux'):
        check_model(build(plain))
    model = build(model_cfg(cropr)).train()
    with pytest.raises(ValueError, match='leaves no Decision'):
        model(**batch(), mode='loss')
    with pytest.raises(ValueError, match='embed_dim=30 is no multiple of 4'):
        DynamicViT(30)


def test_a_detector_without_its_teacher_at_hand(digits, tmp_path):
    """Only training needs it: a test builds no second ViT."""
    cfg = tiny_detector_config(digits, tmp_path).model
    cfg.detector.backbone.reducer = dict(
        type='mmcropr.DynamicViT', rate=8, align=1)
    gone = str(tmp_path / 'gone.py')
    cfg.auxiliary_head = dict(
        type='mmcropr.DynamicViTHead', teacher_config=gone,
        teacher_ckpt='gone.pth')
    init_default_scope('mmdet')
    model = MODELS.build(cfg)
    assert model.auxiliary_head.teacher._model is None
    with pytest.raises(FileNotFoundError, match='gone.py'):
        check_model(model)
