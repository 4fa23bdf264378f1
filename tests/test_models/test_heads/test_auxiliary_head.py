# Copyright (c) mmcropr contributors.
import math

import pytest
import torch
from torch.nn import functional as F

from mmcropr.models import Aggregator, CroprSegHead, CroprViT, LLFNeck
from mmcropr.structures import FeatureMaps
from tests.test_models.test_vectors import samples
from tests.utils import TINY


def backbone(**reducer) -> CroprViT:
    reducer = dict(dict(type='mmcropr.Cropr', rate=4, num_queries=16),
                   **reducer)
    return CroprViT(
        TINY, img_size=64, out_type='tokens', reducer=reducer).train()


def test_aggregator_formula():
    module = Aggregator(8)
    logits, tokens = torch.randn(2, 3, 5), torch.randn(2, 5, 8)
    weights = torch.softmax(logits / math.sqrt(8), dim=-1)
    read = torch.einsum('bqm,bmd->bqd', weights, tokens)
    mlp, norm = module.mlp, module.norm
    hidden = F.gelu(mlp.fc1(F.layer_norm(read, (8, ), norm.weight, norm.bias,
                                         1e-6)))
    wanted = read + mlp.fc2(hidden)
    assert torch.allclose(module(logits, tokens), wanted, atol=1e-6)
    assert mlp.fc1.out_features == 32


def test_learns_queries_and_leaves_the_backbone_alone():
    model, neck, head = backbone(), LLFNeck(), CroprSegHead(32, 5, 2)
    maps = neck(model(torch.rand(2, 3, 64, 64)))
    labels = torch.randint(0, 5, (2, 64, 64))
    losses = head.loss(maps, samples(labels))
    assert sorted(losses) == ['module0.loss_ce', 'module1.loss_ce']
    sum(losses.values()).backward()
    for reducer in model.reducers:
        assert reducer.queries.grad.abs().sum() > 0
    for name, parameter in head.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    assert all(p.grad is None for p in model.vit.parameters())


def test_labels_are_downsampled_and_padding_is_ignored():
    model, head = backbone(num_queries=20), CroprSegHead(32, 5, 2)
    state = model(torch.rand(1, 3, 60, 75))  # 64 x 80 px: 4 x 5 patches
    labels = torch.arange(60)[:, None].expand(60, 75) // 16
    target = head.targets(state, samples(labels[None]))
    assert target.shape == (1, 4, 5)
    assert target[0, :, 0].tolist() == [0, 1, 2, 3]
    labels = torch.full((1, 60, 75), 255)
    labels[:, :16, :16] = 3
    target = head.targets(state, samples(labels))
    assert target.flatten().tolist() == [3] + [255] * 19
    logits = torch.randn(1, 20, 5)
    loss = head.loss_by_logits(logits, target)['loss_ce']
    wanted = F.cross_entropy(logits[:, 0], torch.tensor([3]))
    assert torch.allclose(loss, wanted)


def test_queries_must_match_the_crop():
    model, head = backbone(num_queries=9), CroprSegHead(32, 5, 2)
    state = model(torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match='num_queries=9, .*64 x 64 px has '
                       '4 x 4 = 16 patches.*num_queries=16'):
        head.check_backbone(model)
    with pytest.raises(ValueError, match='num_queries=9, .*64 x 64 px has '
                       '4 x 4 = 16 patches.*num_queries=16'):
        head.loss(state, samples(torch.zeros(1, 64, 64).long()))


def test_number_of_modules():
    state = backbone()(torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match='num_modules=3, .* are 2; set '
                       'num_modules=2'):
        CroprSegHead(32, 5, 3)(state)
    with pytest.raises(ValueError, match='num_modules must be 1'):
        CroprSegHead(32, 5, 0)


def test_neck_that_drops_the_state():
    with pytest.raises(TypeError, match='pass it on: return FeatureMaps'):
        CroprSegHead(32, 5, 2)((torch.rand(1, 32, 4, 4), ))


@pytest.mark.parametrize('kind', ['mmcropr.Random', 'eval'])
def test_nothing_to_learn_from(kind):
    model = CroprViT(
        TINY, img_size=64, out_type='tokens',
        reducer=dict(type='mmcropr.Random', rate=4)) if kind != 'eval' else (
            backbone().eval())  # yapf: disable
    with pytest.raises(ValueError, match='found nothing to learn from'):
        CroprSegHead(32, 5, 2)(model(torch.rand(1, 3, 64, 64)))


def test_reads_feature_maps_and_states():
    model, head = backbone(), CroprSegHead(32, 5, 2).eval()
    state = model(torch.rand(1, 3, 64, 64))
    one, two = head(state), head(FeatureMaps([], state))
    assert all(torch.equal(a, b) for a, b in zip(one, two))
