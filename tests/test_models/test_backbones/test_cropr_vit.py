# Copyright (c) mmcropr contributors.
import pytest
import torch

from mmcropr.models import CroprViT
from mmcropr.models.reducers import TopKPruner
from mmcropr.registry import MODELS
from mmcropr.structures import TokenState
from tests.utils import TINY, TINY_EVA, randomise_layer_scale

CROPR = dict(type='mmcropr.Cropr', rate=4, align=1)
REGISTERS = dict(TINY, reg_tokens=2, no_embed_class=True, init_values=1.)
MIXED = dict(
    family='eva', embed_dim=32, depth=4, num_heads=2, use_rot_pos_emb=True,
    attn_type='rope', rope_type='mixed', num_reg_tokens=1,
    use_pre_transformer_norm=True)  # yapf: disable


@MODELS.register_module()
class BetweenHalves(TopKPruner):
    """Acts inside a block; keeps the last patches."""

    stage = 'attention'

    def score(self, state):
        return state.raster_index().float()


def block_outputs(model: CroprViT, image: torch.Tensor) -> tuple:
    """Maps of the model, and what its blocks and final norm gave."""
    outputs, handles = [], []
    for part in (*model.vit.blocks, model.vit.norm):
        handles.append(
            part.register_forward_hook(
                lambda module, args, output: outputs.append(output)))
    maps = model(image)
    for handle in handles:
        handle.remove()
    return maps, outputs


def to_map(tokens: torch.Tensor, num_prefix: int, grid: tuple) -> object:
    rows = tokens[:, num_prefix:].unflatten(1, grid)
    return rows.permute(0, 3, 1, 2)


@torch.no_grad()
def test_out_indices_without_a_reducer():
    model = CroprViT(TINY, img_size=64, out_indices=(0, 2, -1)).eval()
    maps, outputs = block_outputs(model, torch.randn(2, 3, 48, 80))
    assert len(maps) == 3 and len(outputs) == 5
    for found, tokens in zip(maps, (outputs[0], outputs[2], outputs[4])):
        assert torch.equal(found, to_map(tokens, 1, (3, 5)))
    model.out_indices = (1, )
    found, = model(torch.zeros(2, 3, 48, 80))
    assert not torch.equal(found, maps[0])


@torch.no_grad()
def test_maps_hold_pruned_patches_as_they_left():
    torch.manual_seed(0)
    model = CroprViT(
        TINY_EVA, img_size=64, out_indices=range(4), reducer=CROPR).eval()
    maps, outputs = block_outputs(model, torch.randn(2, 3, 64, 64))
    gone = maps.state.removal_map()[:, None].expand_as(maps[0])
    assert torch.equal(maps[0], to_map(outputs[0], 1, (4, 4)))
    assert torch.equal(maps[1][gone == 0], maps[0][gone == 0])
    assert torch.equal(maps[2][gone == 0], maps[0][gone == 0])
    assert torch.equal(maps[2][gone == 1], maps[1][gone == 1])
    for earlier, later in zip(maps, maps[1:3]):
        assert (later[gone == -1] != earlier[gone == -1]).all()
    # The last one is after the fusion: every patch has gone through it.
    assert torch.equal(maps[3], to_map(outputs[4], 1, (4, 4)))
    assert (maps[3] != maps[2]).all()


@pytest.mark.parametrize('kwargs, message', [
    (dict(out_indices=0, reducer=dict(type='mmcropr.Random', rate=4)),
     r'modules=\(0, 1\) prune behind the last map, that of block 0'),
    (dict(reducer=dict(type='mmcropr.Random', raet=4)),
     'give rate, tpr, keep or keep_rate. It has the keys type, raet'),
    (dict(out_indices=4), r'out_indices=\(4,\) are not blocks.*4 blocks'),
    (dict(out_indices=(0, -5)), r'\(0, -5\) are not blocks'),
    (dict(out_indices=()), r'out_indices=\(\) are not blocks'),
    (dict(out_indices=1, out_type='tokens'), r'\(1,\) needs out_type=\'featm'),
    (dict(out_indices=(2, 3), out_type='tokens'), 'the last block only'),
    (dict(frozen_stages=5), 'frozen_stages must be from -1 to 4, got 5'),
    (dict(frozen_stages=-2), 'frozen_stages must be from -1 to 4, got -2'),
    (dict(reducer=dict(CROPR, rate=8)), 'rate=8 over 2 modules.*4 x 4 = 16'),
    (dict(reducer=dict(type='mmcropr.Cropr')), 'give rate, tpr, keep or')
])
def test_refuses(kwargs, message):
    with pytest.raises(ValueError, match=message):
        CroprViT(TINY, img_size=64, **kwargs)


@torch.no_grad()
def test_featmap_is_tokens_with_fusion():
    torch.manual_seed(0)
    model = CroprViT(REGISTERS, img_size=64, reducer=CROPR).eval()
    image = torch.randn(2, 3, 64, 64)
    maps = model(image)
    model.out_type = 'tokens'
    state = model(image)
    assert state.length == model.lengths()[-1] == 8
    found = to_map(state.restore().finish(), 3, (4, 4))
    assert torch.equal(found, maps[0])


def test_lengths_on_other_grids():
    model = CroprViT(TINY, img_size=64, out_type='tokens', reducer=CROPR)
    for size, lengths in (((64, 64), [12, 8]), ((32, 128), [12, 8]),
                          ((30, 40), [5, 3]), ((128, 64), [24, 16])):
        state = model(torch.zeros(1, 3, *size))
        assert state.length == model.lengths(state.grid)[-1]
        assert model.lengths(state.grid) == lengths
    assert CroprViT(TINY, img_size=64).lengths() == []
    assert CroprViT(TINY, img_size=64).num_modules == 0


@torch.no_grad()
def test_progress_acts_in_training_only():
    model = CroprViT(TINY, img_size=64, out_type='tokens', reducer=CROPR)
    image = torch.zeros(1, 3, 64, 64)
    for progress, lengths in (((0, 4), [17, 17]), ((3, 8), [15, 14]),
                              ((2, 4), [14, 12]), ((4, 4), [12, 8])):
        model.set_progress(progress)
        model.train()
        assert model.lengths() == lengths
        assert model(image).length == lengths[-1]
        model.eval()
        assert model.lengths() == [12, 8]
        assert model(image).length == 8
    for progress in ((-1, 4), (5, 4), (1, 0)):
        with pytest.raises(ValueError, match=r'share in \[0, 1\]'):
            model.set_progress(progress)


@torch.no_grad()
def test_a_reducer_inside_the_block():
    torch.manual_seed(0)
    cfg = dict(type='mmcropr.BetweenHalves', rate=4, align=1, modules=[1])
    model = CroprViT(
        REGISTERS, img_size=64, out_type='tokens', reducer=cfg).eval()
    randomise_layer_scale(model.vit)
    image = torch.randn(2, 3, 64, 64)
    state, trunk = model(image), model.trunk
    by_hand = trunk.block(0, trunk.embed(image))
    by_hand = trunk.attention_half(1, by_hand)
    assert torch.equal(state.steps[0].pruned[0].tokens.sort(1)[0],
                       by_hand.x[:, 3:10].sort(1)[0])  # yapf: disable
    by_hand.prune(by_hand.raster_index().float(), 12)
    by_hand = trunk.block(2, trunk.mlp_half(1, by_hand))
    assert torch.equal(state.x, by_hand.x)


def test_a_reducer_that_takes_too_much(monkeypatch):
    cfg = dict(type='mmcropr.Random', rate=4, align=1, modules=[1])
    model = CroprViT(TINY, img_size=64, reducer=cfg).eval()
    prune = TokenState.prune
    monkeypatch.setattr(TokenState, 'prune', lambda state, scores, length:
                        prune(state, scores, length - 1))
    with pytest.raises(RuntimeError, match='Random after block 1 left 11 '
                       'tokens, not the 12 of the schedule'):
        model(torch.rand(1, 3, 64, 64))


def test_a_reducer_that_returns_nothing(monkeypatch):
    cfg = dict(type='mmcropr.Random', rate=4, align=1, modules=[1])
    model = CroprViT(TINY, img_size=64, reducer=cfg).eval()
    monkeypatch.setattr(model.reducers[0], 'forward', lambda state, n: None)
    with pytest.raises(TypeError, match='Random returned NoneType'):
        model(torch.rand(1, 3, 64, 64))


def test_gradients_reach_everything():
    torch.manual_seed(0)
    model = CroprViT(MIXED, img_size=64, reducer=CROPR)
    maps = model(torch.randn(2, 3, 48, 80))
    loss = maps[0].square().sum()
    (loss + sum(r.read()[0].sum() for r in maps.state.records)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
