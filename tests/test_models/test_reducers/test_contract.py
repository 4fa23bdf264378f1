# Copyright (c) mmcropr contributors.
"""What every registered reducer must do, whichever family runs it. A new one
is covered without an edit here."""
import pytest
import torch

from mmcropr.models import CroprViT, LLFNeck
from mmcropr.registry import MODELS
from mmcropr.structures import Decision, Route
from tests.contract import (ARCHS, KEEP, SIZE, build, check_places, images,
                            tokens, walk)
from tests.utils import REDUCERS, TINY_EVA


def test_the_registry_is_searched():
    assert {'Cropr', 'Random', 'ToMe', 'SiT', 'DPCKNN'} <= set(REDUCERS)


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('name', REDUCERS)
def test_lengths_places_and_map(name, arch):
    """As many tokens as asked for, prefix tokens in front, all patches in the
    map, each where it belongs."""
    model, image = build(name, arch), images()
    with torch.no_grad():
        state, seen = walk(model, image)
        assert [length for *_, length, _ in seen] == KEEP
        check_places(state, seen)
        model.out_type = 'featmap'
        maps = model(image)
    assert maps[0].shape == (2, 32, 4, 6)
    assert torch.isfinite(maps[0]).all()


@pytest.mark.parametrize('name', ['PatchMerger', 'SiT', 'Sinkhorn'])
def test_restoration_of_mixtures(name):
    """The mean of all mixtures by a patch's shares in them."""
    with torch.no_grad():
        state = tokens(build(name), images())
    mixed, = state.steps
    share = mixed.weights / mixed.weights.sum(1, keepdim=True)
    torch.testing.assert_close(state.full()[:, state.num_prefix:],
                               share.transpose(1, 2) @ state.patches)


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
    if model.reducers[0].draws:
        pytest.skip('draws anew for every batch')
    with torch.no_grad():
        both = model(batch)[0]
        alone = torch.cat([model(image[None])[0] for image in batch])
    torch.testing.assert_close(both, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', REDUCERS)
def test_other_grids(name):
    model = build(name)
    with torch.no_grad():
        for size in ((64, 64), (96, 160), (70, 100), (32, 32), (16, 16)):
            grid = tuple(-(-side // 16) for side in size)
            maps = model(torch.rand(1, 3, *size))
            assert maps[0].shape[-2:] == grid
            assert torch.isfinite(maps[0]).all()


def build_strong(name):
    """With as strong a reduction as the method is ready for."""
    for keep in ([9, 3], [13, 7]):
        try:
            return build(name, keep=keep)
        except ValueError as error:
            assert 'at once, only to' in str(error)
    return build(name)


@pytest.mark.parametrize('name', REDUCERS)
def test_lengths_are_what_happens(name):
    """On any grid, though some methods cannot follow the schedule on some;
    and with gradients for all weights that work, as DDP needs them."""
    model = build_strong(name)
    for size in ((64, 96), (160, 160), (48, 64), (32, 32)):
        with torch.no_grad():
            state = tokens(model.eval(), torch.rand(1, 3, *size))
        assert state.length == model.lengths(state.grid)[-1]
        if model.reducers[0].record_type is None and size != (32, 32):
            state = tokens(model.train(), torch.rand(2, 3, *size))
            state.x.square().sum().backward()
            assert all(
                p.grad is not None for p in model.reducers.parameters()), size
            model.zero_grad()


@pytest.mark.parametrize('arch', ['vit', 'eva'])
@pytest.mark.parametrize('name', REDUCERS)
def test_gradients(name, arch):
    """Every weight of the trunk and of a reducer without auxiliary head gets
    one; the queries of the others wait for their head."""
    model = build(name, arch).train()
    (model(images())[0] * torch.rand(32, 4, 6)).sum().backward()
    for key, parameter in model.named_parameters():
        learns = not (key.startswith('reducers')
                      and model.reducers[0].record_type is Route)
        assert (parameter.grad is not None) == learns, key
        if learns:
            assert torch.isfinite(parameter.grad).all(), key


def has_float16() -> bool:
    """Whether this torch multiplies float16 matrices on the CPU."""
    try:
        torch.ones(1, 1, dtype=torch.float16) @ torch.ones(
            1, 1, dtype=torch.float16)
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize('dtype', [
    torch.float32, torch.bfloat16, pytest.param(
        torch.float16, marks=pytest.mark.skipif(
            not has_float16(), reason='no float16 on the CPU'))])
@pytest.mark.parametrize('arch', ['vit', 'eva'])
@pytest.mark.parametrize('name', REDUCERS)
def test_half_precision_and_repetition(name, arch, dtype):
    model, image = build(name, arch).to(dtype), images().to(dtype)
    with torch.no_grad():
        torch.manual_seed(3)
        first = model(image)[0]
        if model.reducers[0].draws:
            torch.manual_seed(3)
        assert first.equal(model(image)[0])
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
    if MODELS.get(name).needs_class_token:
        with pytest.raises(ValueError, match='without a class token'):
            CroprViT(arch, img_size=SIZE, reducer=cfg)
    else:
        model = CroprViT(arch, img_size=SIZE, reducer=cfg)
        assert model(images())[0].shape == (2, 32, 4, 6)


def test_tome_asked_for_more_than_half():
    with pytest.raises(ValueError, match='ToMe cannot take 25 tokens, 1 of '
                       'them prefix tokens, to 12 at once, only to 13'):
        build('ToMe', keep=[12, 10])


@pytest.mark.parametrize('name', REDUCERS)
def test_what_it_leaves_in_training(name):
    """One item per module of the kind that heads look for, nothing in eval;
    a patch that was decided against does not return."""
    model = build(name)
    assert not tokens(model, images()).records
    state = tokens(model.train(), images())
    record_type = model.reducers[0].record_type
    assert [type(route) for route in state.records] == (
        [] if record_type is None else [record_type] * 2)
    if record_type is Decision:
        first, second = (route.keep for route in state.records)
        assert set(first.unique().tolist()) <= {0., 1.}
        assert (second <= first).all() and first.requires_grad
        full, (slots, removed) = state.full()[:, state.num_prefix:], (
            state.trace())
        decided, = state.steps
        for number, keep in enumerate((first, second)):
            left = removed == number
            assert full[left].equal(decided.pruned[number][0][left])
            assert not keep[left].any()
        stays = second.bool()
        assert (slots >= 0).equal(stays)
        assert full[stays].equal(state.patches[stays])


@pytest.mark.parametrize('name', REDUCERS)
def test_curriculum(name):
    """Without reduction, at its beginning, every weight still gets its
    gradient: distributed training would wait for it for ever."""
    model = build(name).train()
    model.set_progress((0, 1))
    model(images())[0].square().sum().backward()
    record_type = model.reducers[0].record_type
    for key, parameter in model.reducers.named_parameters():
        assert parameter.grad is not None or record_type is Route, key
    if name in ('Cropr', 'Random', 'ToMe', 'EViT'):
        assert model.lengths() == [25, 25]
    assert model.eval().lengths() == KEEP


@pytest.mark.parametrize('name', REDUCERS)
def test_more_tokens_than_there_are(name):
    with pytest.raises(ValueError, match='keep=.30, 20. must not grow, and '
                       'start at 25 tokens or fewer'):
        build(name, keep=[30, 20])


def test_number_of_clusters_comes_from_the_schedule():
    with pytest.raises(ValueError, match='num_tokens=30 of mmcropr.SiT'):
        build('SiT', num_tokens=30)
