# Copyright (c) mmcropr contributors.
"""What every registered reducer must do, whichever family runs it. A new one
is covered without an edit here."""
import pytest
import torch

from mmcropr.models import CroprViT, LLFNeck
from mmcropr.registry import MODELS
from tests.utils import REDUCERS, TINY, TINY_EVA, randomise_layer_scale

ARCHS = {
    'vit': TINY,
    'deit3': dict(TINY, init_values=1e-5, no_embed_class=True),
    'dinov2': dict(
        TINY, init_values=1e-5, reg_tokens=4, no_embed_class=True),
    'eva': TINY_EVA,
}
SIZE = (64, 96)  # 4 x 6 patches
KEEP = [20, 14]


def build(reducer, arch='vit', **options):
    torch.manual_seed(0)
    if reducer is not None:
        schedule = dict(align=1, modules=[1, 2])
        schedule.setdefault('keep', KEEP)
        reducer = {**schedule, 'type': f'mmcropr.{reducer}', **options}
        if 'rate' in options:
            del reducer['keep']
    model = CroprViT(
        ARCHS[arch], img_size=SIZE, patch_size=16, reducer=reducer)
    randomise_layer_scale(model.vit)
    return model.eval()


def images(batch=2):
    torch.manual_seed(1)
    return torch.rand(batch, 3, *SIZE)


def tokens(model, image):
    """State before the last block."""
    model.out_type = 'tokens'
    return model(image)


def test_the_registry_is_searched():
    assert {'Cropr', 'Random', 'ToMe', 'SiT', 'DPCKNN'} <= set(REDUCERS)


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('name', REDUCERS)
def test_lengths_prefix_and_map(name, arch):
    """As many tokens as asked for, prefix tokens in front and never mixed
    with patches, all patches in the map."""
    model, image = build(name, arch), images()
    with torch.no_grad():
        state = model.trunk.embed(image)
        plan = model._plan(state.grid)
        for number in range(model.trunk.depth - 1):
            if number not in plan:
                state = model.trunk.block(number, state)
                continue
            reducer = model.reducers[plan[number][0]]
            step = model.trunk.block
            if reducer.stage == 'attention':
                step = model.trunk.attention_half
            state = step(number, state)
            prefix = state.x[:, :state.num_prefix].clone()
            state = reducer(state, plan[number][1])
            assert state.length == plan[number][1]
            assert state.x[:, :state.num_prefix].equal(prefix)
            if reducer.stage == 'attention':
                state = model.trunk.mlp_half(number, state)
        maps = model(image)
    assert maps[0].shape == (2, 32, 4, 6)
    assert torch.isfinite(maps[0]).all()


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('name', REDUCERS)
def test_indices_and_restoration(name, arch):
    """Every patch has one place: kept, left or in a current token; what is
    restored there is that token."""
    model, image = build(name, arch), images()
    with torch.no_grad():
        state = tokens(model, image)
    index, count = state.raster_index(), state.num_current
    assert index.shape == (2, count)
    assert 0 <= index.min() and index.max() < 24
    full = state.full()[:, state.num_prefix:]
    patches = state.x[:, state.num_prefix:]
    if state.mixture is not None:
        share = state.mixture / state.mixture.sum(1, keepdim=True)
        torch.testing.assert_close(full, share.transpose(1, 2) @ patches)
        return
    for image in range(2):
        if state.source is None:
            assert len(set(index[image].tolist())) == count
            source = [-1] * 24
            for slot, place in enumerate(index[image].tolist()):
                source[place] = slot
        else:
            source = state.source[image].tolist()
            real = range(count) if state.mask is None else (
                state.mask[image, state.num_prefix:].nonzero().flatten())
            assert set(source) - {-1} == {int(slot) for slot in real}
        left = {
            place: part.tokens[image, i]
            for part in state.pruned
            for i, place in enumerate(part.index[image].tolist())}
        for place, slot in enumerate(source):
            wanted = left[place] if slot < 0 else patches[image, slot]
            assert full[image, place].equal(wanted)


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('name', REDUCERS)
def test_rate_0_is_the_identity(name, arch):
    """With LayerScale, registers and rotary embeddings, too."""
    model, plain = build(name, arch, rate=0), build(None, arch)
    plain.vit.load_state_dict(model.vit.state_dict())
    with torch.no_grad():
        found, wanted = model(images())[0], plain(images())[0]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('arch', ['vit', 'eva'])
@pytest.mark.parametrize('name', REDUCERS)
def test_images_do_not_mix(name, arch):
    """With as many images as heads, which rotary tables could confuse."""
    model, batch = build(name, arch), images(2)
    if name == 'Random':
        pytest.skip('draws anew for every batch')
    with torch.no_grad():
        both = model(batch)[0]
        alone = torch.cat([model(image[None])[0] for image in batch])
    torch.testing.assert_close(both, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', REDUCERS)
def test_other_grids(name):
    model = build(name)
    with torch.no_grad():
        for size in ((64, 64), (96, 160), (70, 100)):
            grid = [-(-side // 16) for side in size]
            assert model(torch.rand(1, 3, *size))[0].shape[-2:] == tuple(grid)


@pytest.mark.parametrize('arch', ['vit', 'eva'])
@pytest.mark.parametrize('name', REDUCERS)
def test_gradients(name, arch):
    """Every weight of the trunk and of a reducer without auxiliary head gets
    one; the queries of the others wait for their head."""
    model = build(name, arch).train()
    (model(images())[0] * torch.rand(32, 4, 6)).sum().backward()
    for key, parameter in model.named_parameters():
        learns = not (key.startswith('reducers')
                      and model.reducers[0].auxiliary)
        assert (parameter.grad is not None) == learns, key
        if learns:
            assert torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize('arch', ['vit', 'eva'])
@pytest.mark.parametrize('name', REDUCERS)
def test_half_precision_and_repetition(name, arch):
    model, image = build(name, arch), images()
    with torch.no_grad():
        for dtype in (torch.float32, torch.bfloat16):
            model.to(dtype)
            torch.manual_seed(3)
            first = model(image.to(dtype))[0]
            torch.manual_seed(3)
            assert first.equal(model(image.to(dtype))[0])
            assert first.dtype == dtype and torch.isfinite(first).all()


@pytest.mark.parametrize('name', REDUCERS)
def test_state_dict_round_trip(name):
    model, twin = build(name), build(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.rand_like(parameter) * 0.1)
        twin.load_state_dict(model.state_dict())
        torch.manual_seed(3)
        wanted = model(images())[0]
        torch.manual_seed(3)
        assert twin(images())[0].equal(wanted)


@pytest.mark.parametrize('name', REDUCERS)
def test_with_the_neck(name):
    """Tokens and neck do what the drop-in form does."""
    model = build(name)
    with torch.no_grad():
        torch.manual_seed(3)
        wanted = model(images())[0]
        torch.manual_seed(3)
        assert LLFNeck()(tokens(model, images()))[0].equal(wanted)


@pytest.mark.parametrize('name', REDUCERS)
def test_class_token(name):
    """A method that reads the class token says so on a model without one."""
    arch = dict(TINY_EVA, class_token=False)
    cfg = dict(type=f'mmcropr.{name}', keep=KEEP, modules=[1, 2], align=1)
    if {'cls_attention', 'significance'} & set(MODELS.get(name).needs):
        with pytest.raises(ValueError, match='without a class token'):
            CroprViT(arch, img_size=SIZE, reducer=cfg)
    else:
        model = CroprViT(arch, img_size=SIZE, reducer=cfg)
        assert model(images())[0].shape == (2, 32, 4, 6)


def test_tome_asked_for_more_than_half():
    with pytest.raises(ValueError, match='from 25 tokens with 1 prefix tokens '
                       'at most 12, asked are 13'):
        build('ToMe', keep=[12, 10])
