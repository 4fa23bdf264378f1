# Copyright (c) mmcropr contributors.
import pytest
import torch

from mmcropr.models import CroprViT, LLFNeck, ReadoutNeck
from tests.utils import TINY

REDUCER = dict(type='mmcropr.Random', rate=4, align=1)


def maps_of(arch: dict, **options):
    torch.manual_seed(0)
    model = CroprViT(arch, img_size=64, reducer=REDUCER, **options).eval()
    return model, model(torch.rand(2, 3, 64, 64))


def test_class_token_behind_each_block():
    model, maps = maps_of(TINY, out_indices=(1, 3))
    tokens = []
    for block in (model.vit.blocks[1], model.vit.norm):
        block.register_forward_hook(lambda m, i, out: tokens.append(out[:, 0]))
    torch.manual_seed(1)
    image = torch.rand(2, 3, 64, 64)
    maps = model(image)
    pairs = ReadoutNeck()(maps)
    assert pairs.state is maps.state and len(pairs) == 2
    for pair, features, token in zip(pairs, maps, tokens):
        assert pair[0] is features
        assert torch.equal(pair[1], token) and token.shape == (2, 32)


def test_mean_without_a_class_token():
    arch = dict(TINY, class_token=False, global_pool='avg')
    _, maps = maps_of(arch, out_indices=(0, 3))
    for pair, features in zip(ReadoutNeck()(maps), maps):
        torch.testing.assert_close(pair[1], features.flatten(2).mean(2))


def test_wrong_input():
    _, state = maps_of(TINY, out_type='tokens')
    for inputs in (state, (torch.rand(1, 32, 4, 4), )):
        with pytest.raises(TypeError, match="set out_type='featmap'"):
            ReadoutNeck()(inputs)
    with pytest.raises(TypeError, match='no neck before this one'):
        ReadoutNeck()(LLFNeck()(state))
