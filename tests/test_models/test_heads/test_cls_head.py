# Copyright (c) mmcropr contributors.
"""That losses and gradients are the authors' is in test_vectors.py."""
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.structures import DataSample

from tests.utils import TINY


def model_cfg(**options):
    head = dict(
        type='mmcropr.CroprClsHead', in_channels=32, num_classes=5,
        num_modules=2)  # yapf: disable
    return dict(
        type='ImageClassifier',
        data_preprocessor=dict(num_classes=5),
        backbone=dict(
            type='mmcropr.CroprViT', arch=TINY, img_size=64, out_type='tokens',
            reducer=dict(type='mmcropr.Cropr', rate=4, align=1)),
        neck=dict(type='mmcropr.PoolNeck'),
        head=dict(head, **options),
        train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8),
                                 dict(type='CutMix', alpha=1.0)]))


def build(cfg=None):
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    return MODELS.build(cfg or model_cfg())


def data(count=4):
    torch.manual_seed(1)
    return dict(
        inputs=torch.randint(0, 256, (count, 3, 64, 64)).float(),
        data_samples=[DataSample().set_gt_label(i) for i in range(count)])


def test_mixed_targets_reach_every_module():
    model = build()
    batch = model.data_preprocessor(data(), True)
    assert 'gt_score' in batch['data_samples'][0]
    losses = model(**batch, mode='loss')
    assert list(losses) == ['loss', 'aux.module0.loss', 'aux.module1.loss']
    feats = model.extract_feat(batch['inputs'])
    scores = torch.stack([s.gt_score for s in batch['data_samples']])
    for i, logits in enumerate(model.head.auxiliary(feats)):
        wanted = -(scores * logits[:, 0].log_softmax(-1)).sum(-1).mean()
        torch.testing.assert_close(losses[f'aux.module{i}.loss'], wanted)
    total, _ = model.parse_losses(losses)
    total.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_auxiliary_losses_stop_at_the_tokens():
    model = build()
    losses = model(**model.data_preprocessor(data(), True), mode='loss')
    sum(v for k, v in losses.items() if k.startswith('aux')).backward()
    assert all(p.grad is None for p in model.backbone.vit.parameters())


def test_initial_weights():
    """The main init_cfg leaves the auxiliary heads to themselves."""
    model = build()
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.fill_(7.)
    model.init_weights()
    assert model.head.fc.weight.std() < 0.03
    assert all((p == 7).all() for p in model.head.auxiliary.parameters())


def test_weights_of_the_stock_head():
    model = build()
    state = {
        k: v for k, v in model.state_dict().items()
        if not k.startswith('head.auxiliary.')}
    cfg = model_cfg()
    cfg['head'] = dict(type='LinearClsHead', in_channels=32, num_classes=5)
    plain = build(cfg)
    plain.load_state_dict(state)
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert plain.eval()(image).equal(model.eval()(image))


def test_predictions():
    model = build().eval()
    with torch.no_grad():
        found = model.test_step(data())
    assert len(found) == 4 and found[0].pred_score.shape == (5, )


def test_one_query():
    cfg = model_cfg()
    cfg['backbone']['reducer']['num_queries'] = 16
    model = build(cfg)
    with pytest.raises(ValueError, match='num_queries=16.*set num_queries=1'):
        model.head.auxiliary.check_backbone(model.backbone)


def test_wrong_number_of_modules():
    model = build(model_cfg(num_modules=3))
    with pytest.raises(ValueError, match='set num_modules=2'):
        model(**model.data_preprocessor(data(), True), mode='loss')
