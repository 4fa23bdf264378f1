# Copyright (c) mmcropr contributors.
import pytest
import torch

from mmcropr.models import Cropr, CroprViT, NonSalient
from mmcropr.models.heads import CroprMultiLabelHead
from mmcropr.structures import TokenState
from tests.utils import TINY, TINY_EVA, make_state


def unfolded(reducer: Cropr, state: TokenState) -> torch.Tensor:
    """Scores as in method.md, the module: over all queries, prefix cut off."""
    logits = reducer.queries @ state.x.transpose(1, 2)
    return logits.sum(1)[:, state.num_prefix:]


def places(index: torch.Tensor) -> list:
    return [sorted(row) for row in index.tolist()]


def test_folded_scores_select_as_all_queries_do():
    torch.manual_seed(0)
    for draw in range(100):
        reducer = Cropr(embed_dim=16, num_queries=1 + draw % 40).eval()
        state = make_state(3, (5, 7), draw % 4, 16)
        scores = unfolded(reducer, state)
        assert torch.allclose(reducer.score(state), scores, atol=1e-5)
        num_keep = 1 + draw % 34
        wanted = scores.topk(num_keep)[1]
        reducer(state, state.num_prefix + num_keep)
        assert state.index.tolist() == places(wanted), draw


@pytest.mark.parametrize('cls', [Cropr, NonSalient])
def test_fold_leaves_the_scores(cls):
    reducer = cls(embed_dim=16, num_queries=9)
    state = make_state(3, (5, 7), dim=16)
    before = reducer.score(state)
    summed = reducer.queries.detach().sum(0, keepdim=True)
    reducer.fold()
    assert reducer.num_queries == 1
    assert torch.equal(reducer.queries, summed)
    assert torch.equal(reducer.score(state), before)
    assert before.std() > 0


def test_folded_backbone_gives_the_same():
    torch.manual_seed(0)
    cfg = dict(type='mmcropr.Cropr', rate=3, align=1, num_queries=16)
    model = CroprViT(TINY, img_size=64, reducer=cfg).eval()
    image = torch.randn(2, 3, 64, 64)
    before, = model(image)
    model.fold_queries()
    assert torch.equal(model(image)[0], before)
    # A folded model is one with num_queries=1.
    cfg['num_queries'] = 1
    other = CroprViT(TINY, img_size=64, reducer=cfg).eval()
    assert not torch.allclose(other(image)[0], before)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(image)[0], before)


def test_non_salient_keeps_what_cropr_prunes():
    torch.manual_seed(0)
    state, twin = (make_state(3, (5, 7), dim=16) for _ in range(2))
    twin.x = state.x
    cropr, control = Cropr(16, num_queries=5), NonSalient(16, num_queries=5)
    control.load_state_dict(cropr.state_dict())
    cropr(state, 2 + 20)
    control(twin, 2 + 15)
    gone = (state.trace()[1] == 0).nonzero()[:, 1].view(3, -1)
    assert twin.index.tolist() == places(gone)


@pytest.mark.parametrize('cls', [Cropr, NonSalient])
def test_route(cls):
    reducer, state = cls(16, num_queries=5), make_state(3, (5, 7), dim=16)
    before = state.x.clone()
    reducer(state, 12)
    route, = state.records
    # The auxiliary head sees what there was before the pruning.
    assert torch.equal(route.tokens, before)
    wanted = torch.einsum('qd,bmd->bqm', reducer.queries, before)
    assert torch.allclose(route.read()[0], wanted, atol=1e-6)
    state = make_state(3, (5, 7), dim=16)
    reducer(state, state.length)
    assert len(state.records) == 1, 'at rate 0 the queries learn all the same'
    reducer.eval()(state, 12)
    assert len(state.records) == 1, 'no route at test time'


def test_a_route_trains_queries_and_never_the_backbone():
    torch.manual_seed(0)
    cfg = dict(type='mmcropr.Cropr', rate=3, align=1, num_queries=6)
    model = CroprViT(TINY_EVA, img_size=64, out_type='tokens', reducer=cfg)
    image = torch.randn(2, 3, 64, 64, requires_grad=True)
    state = model(image)
    assert len(state.records) == 2
    weights = [torch.randn_like(route.read()[0]) for route in state.records]
    sum((route.read()[0] * weight).sum() + route.tokens.sum()
        for route, weight in zip(state.records, weights)).backward()
    for reducer, route, weight in zip(model.reducers, state.records, weights):
        wanted = torch.einsum('bqm,bmd->qd', weight, route.tokens)
        assert torch.allclose(reducer.queries.grad, wanted, atol=1e-5)
    assert image.grad is None
    assert all(p.grad is None for p in model.vit.parameters())


def test_selection_is_without_gradient():
    model = CroprViT(
        TINY,
        img_size=64,
        reducer=dict(type='mmcropr.Cropr', rate=3, align=1))
    maps = model(torch.randn(1, 3, 64, 64))
    maps[0].square().sum().backward()
    assert all(r.queries.grad is None for r in model.reducers)
    assert model.vit.patch_embed.proj.weight.grad.abs().sum() > 0


def test_scores_do_not_depend_on_autocast():
    reducer, state = Cropr(16, num_queries=5), make_state(3, (5, 7), dim=16)
    wanted = reducer.score(state)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = reducer.score(state)
    assert found.dtype == torch.float32 and torch.equal(found, wanted)


def test_sampling_says_that_it_draws():
    assert Cropr(16, selection='sample').draws and not Cropr(16).draws


def test_initial_queries():
    torch.manual_seed(0)
    reducer = Cropr(embed_dim=64, num_queries=1000)
    assert reducer.num_queries == 1000
    assert abs(reducer.queries.std().item() * 8 - 1) < 0.02
    assert abs(reducer.queries.mean().item()) < 1e-3


@pytest.mark.parametrize('num_queries', [0, -2])
def test_refuses(num_queries):
    with pytest.raises(ValueError, match=f'1 or more.*got {num_queries}'):
        Cropr(16, num_queries=num_queries)


def test_sampling_draws_from_the_attention():
    """How often a patch is the first to stay is its attention."""
    torch.manual_seed(0)
    reducer = Cropr(16, selection='sample').eval()
    state = make_state(3, (5, 7), 1, 16)
    state.x = state.x[:1, :6].expand(20000, -1, -1)
    logits = (state.x[0, 1:] @ reducer.queries[0]) / 4
    with torch.no_grad():
        first = reducer.score(state).argmax(1)
    share = torch.bincount(first, minlength=5) / 20000
    assert (share - logits.softmax(0)).abs().max() < 0.015
    again = reducer.score(state)
    assert not again.equal(reducer.score(state)), 'a new draw every time'


@pytest.mark.parametrize('stop', [True, False])
def test_stop_gradient(stop):
    reducer = Cropr(16, stop_gradient=stop).train()
    state = make_state(3, (5, 7), dim=16)
    state.x.requires_grad_()
    x = state.x
    reducer(state, 20)
    route = state.records[0]
    assert route.tokens.requires_grad != stop
    (route.read()[0].sum() + route.tokens.sum()).backward()
    assert (x.grad is None) == stop
    assert reducer.queries.grad is not None


def test_unknown_selection():
    with pytest.raises(ValueError, match="'topk' or 'sample', got 'all'"):
        Cropr(16, selection='all')
    with pytest.raises(ValueError, match='one query, got num_queries=5'):
        Cropr(16, selection='sample', num_queries=5)


@pytest.mark.parametrize('num_heads', [1, 4])
def test_scores_of_the_multi_head_form(num_heads):
    """Those of all queries and heads, also once the queries are folded; the
    formula is in tests/test_tools/test_official_cropr.py."""
    torch.manual_seed(0)
    reducer = Cropr(32, num_queries=5, num_heads=num_heads)
    state = make_state(3, (5, 7), dim=32)
    torch.nn.init.normal_(reducer.attn_norm.bias)
    logits, _ = reducer.attend(state.x)
    assert logits.shape == (3, num_heads, 5, 37)
    wanted = logits.sum((1, 2))[:, 2:]
    torch.testing.assert_close(reducer.score(state), wanted, rtol=1e-4,
                               atol=1e-4)
    reducer.fold()
    assert reducer.num_queries == 1
    torch.testing.assert_close(reducer.score(state), wanted, rtol=1e-4,
                               atol=1e-4)


def test_training_of_the_multi_head_form():
    """Norm and projections learn through the head; the backbone does not."""
    torch.manual_seed(0)
    model = CroprViT(TINY, img_size=64, reducer=dict(
        type='mmcropr.Cropr', rate=4, align=1, num_heads=2)).train()
    head = CroprMultiLabelHead(32, 3, model.num_modules, num_heads=2)
    head.check_backbone(model)
    state = model(torch.rand(2, 3, 64, 64)).state
    sum(logits.square().sum() for logits in head(state)).backward()
    for module in (model.reducers, head):
        for name, parameter in module.named_parameters():
            assert parameter.grad.abs().sum() > 0, name
    assert all(p.grad is None for p in model.vit.parameters())
    with pytest.raises(ValueError, match='has num_heads=None, the reducers '
                       'have 2'):
        CroprMultiLabelHead(32, 3, model.num_modules).check_backbone(model)


def test_heads_that_do_not_fit():
    with pytest.raises(ValueError, match='num_heads=5 does not divide'):
        Cropr(32, num_heads=5)
    with pytest.raises(ValueError, match='num_heads=5 does not divide'):
        CroprMultiLabelHead(32, 3, 2, num_heads=5)
    with pytest.raises(ValueError, match='attention of one head'):
        Cropr(32, num_heads=2, selection='sample')
