# Copyright (c) mmcropr contributors.
import pytest
import torch

from mmcropr.models import CroprViT, PoolNeck
from tests.utils import TINY, TINY_EVA

RANDOM = dict(type='mmcropr.Random', keep=[10, 6], modules=[0, 1])


def backbone(arch=TINY, **options):
    torch.manual_seed(0)
    options = dict(dict(img_size=64, out_type='tokens'), **options)
    return CroprViT(arch, **options).eval()


@pytest.mark.parametrize('arch', [TINY, TINY_EVA])
def test_without_reduction_it_is_timm(arch):
    """Class token pooling is timm's; average pooling takes prefix tokens in,
    and the norm comes after it."""
    model, image = backbone(arch), torch.rand(2, 3, 64, 64)
    vit = model.vit
    with torch.no_grad():
        tokens = vit.forward_features(image)
        found = PoolNeck('cls')(model(image))[0]
        torch.testing.assert_close(found, tokens[:, 0])
        norm, vit.norm = vit.norm, torch.nn.Identity()
        raw = vit.forward_features(image)
        vit.norm = norm
        found = PoolNeck('avg')(model(image))[0]
        torch.testing.assert_close(found, norm(raw.mean(1)))


@pytest.mark.parametrize('pool', ['avg', 'cls'])
def test_llf(pool):
    model, image = backbone(reducer=RANDOM), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        seen = []
        model.vit.blocks[-1].register_forward_pre_hook(
            lambda module, args: seen.append(args[0].shape[1]))
        for llf in (True, False):
            feats = PoolNeck(pool, llf=llf)(model(image))
            assert len(feats) == 1 and feats[0].shape == (2, 32)
            assert feats.state is not None
    assert seen == [17, 6]


def test_bad_input():
    with pytest.raises(ValueError, match="'avg' or 'cls', got 'max'"):
        PoolNeck('max')
    with pytest.raises(TypeError, match="out_type='tokens', got FeatureMaps"):
        PoolNeck()(backbone(out_type='featmap')(torch.rand(1, 3, 64, 64)))
    model = backbone(dict(TINY, class_token=False, global_pool='avg',
                          fc_norm=False))
    with pytest.raises(ValueError, match="none among its 0 .*pool='avg'"):
        PoolNeck('cls')(model(torch.rand(1, 3, 64, 64)))
    model = backbone(dict(TINY, class_token=False, reg_tokens=4,
                          global_pool='avg', fc_norm=False))
    with pytest.raises(ValueError, match="none among its 4 .*pool='avg'"):
        PoolNeck('cls')(model(torch.rand(1, 3, 64, 64)))


@pytest.mark.parametrize('proportional', [True, False])
def test_merged_tokens_count_by_their_size(proportional):
    """Whether or not attention goes by it; in float32 under autocast."""
    model = backbone(reducer=dict(
        type='mmcropr.ToMe', keep=[10, 6], modules=[0, 1], align=1,
        proportional=proportional))
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        state = model(image)
        size = state.size
        assert size.sum(1).tolist() == [17, 17]
        assert (model.trunk.bias_of(state) is not None) == proportional
        x = state.finish_block()
        wanted = state.origin.norm((x * size[..., None]).sum(1) / 17)
        found = PoolNeck(llf=False)(model(image))[0]
        torch.testing.assert_close(found, wanted)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            found = PoolNeck(llf=False)(model(image))[0]
    assert found.dtype == torch.float32
