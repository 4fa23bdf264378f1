# Copyright (c) mmcropr contributors.
import pytest
import torch
from mmengine.logging import MessageHub
from torch.nn import functional as F

from mmcropr.models import CroprSegHead, CroprViT
from mmcropr.models.heads import query_draws
from mmcropr.models.heads.query_draws import QueryDraws
from tests.test_models.test_vectors import samples
from tests.utils import TINY


def state_and_labels():
    torch.manual_seed(0)
    model = CroprViT(
        TINY, img_size=64, out_type='tokens', reducer=dict(
            type='mmcropr.Cropr', rate=4, num_queries='patch')).train()
    labels = torch.randint(0, 5, (3, 64, 64))
    labels[0, 16:48], labels[1] = 255, 255
    return model, model(torch.randn(3, 3, 64, 64)), samples(labels)


def drawn(monkeypatch):
    """Rows of every draw from now on."""
    rows, call = [], QueryDraws.__call__

    def spy(self, *args):
        rows.append(call(self, *args))
        return rows[-1]

    monkeypatch.setattr(QueryDraws, '__call__', spy)
    return rows


@pytest.mark.parametrize('counted', [True, False])
@pytest.mark.parametrize('local', [True, False])
def test_loss_by_hand(local, counted, monkeypatch):
    """Over all labelled patches, not those among the drawn: else the mean
    over draws would not be the loss."""
    rows = drawn(monkeypatch)
    model, state, labels = state_and_labels()
    loss = dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=counted)
    head = CroprSegHead(
        32, 5, 2, query_share=.25, local=local, loss_decode=loss)
    losses = head.loss(state, labels)
    assert [len(r) for r in rows] == [4, 4] and not rows[0].equal(rows[1])
    targets = head.targets(state, labels).flatten(1)
    number = (targets != 255).sum() if counted else targets.numel()
    assert 0 < (targets != 255).sum() < targets.numel()
    for i, (row, logits) in enumerate(zip(rows, head(state))):
        wanted = F.cross_entropy(
            logits[:, row].transpose(1, 2), targets[:, row], ignore_index=255,
            reduction='sum') / (number * .25)
        torch.testing.assert_close(losses[f'module{i}.loss_ce'], wanted)
    sum(losses.values()).backward()
    for reducer, row in zip(model.reducers, rows):
        learnt = reducer.queries.grad.abs().sum(1) > 0
        assert learnt.nonzero().flatten().tolist() == row.tolist()


@pytest.mark.parametrize('weights', [None, [0.1, 1., 1., 2., 3.]])
def test_mean_over_draws_is_the_loss(weights):
    _, state, labels = state_and_labels()
    loss = dict(type='mmseg.CrossEntropyLoss', class_weight=weights,
                avg_non_ignore=weights is None)
    head = CroprSegHead(32, 5, 2, query_share=.25, loss_decode=loss)
    wanted = CroprSegHead(32, 5, 2, loss_decode=loss)
    wanted.load_state_dict(head.state_dict())
    wanted = wanted.loss(state, labels)['module0.loss_ce'].item()
    torch.manual_seed(3)
    found = torch.tensor([head.loss(state, labels)['module0.loss_ce'].item()
                          for _ in range(300)])
    assert abs(found.mean() - wanted) < 3 * found.std() / 300**.5
    assert found.std() > 0.1


def test_class_weights_are_averaged_as_torch_does():
    _, state, labels = state_and_labels()
    weights = [0.1, 1., 1., 2., 3.]
    head = CroprSegHead(32, 5, 2, loss_decode=dict(
        type='mmseg.CrossEntropyLoss', class_weight=weights))
    targets = head.targets(state, labels).flatten(1)
    found = head.loss(state, labels)['module0.loss_ce']
    wanted = F.cross_entropy(
        head(state)[0].transpose(1, 2), targets, torch.tensor(weights),
        ignore_index=255)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize('loss', [
    dict(type='mmseg.CrossEntropyLoss', reduction='sum'),
    dict(type='mmseg.CrossEntropyLoss', use_sigmoid=True,
         avg_non_ignore=True)])
def test_other_kinds_of_cross_entropy(loss):
    """As mmseg averages them, from all queries and from some."""
    _, state, labels = state_and_labels()
    head = CroprSegHead(32, 5, 2, loss_decode=loss)
    targets = head.targets(state, labels)
    logits = head(state)[0].transpose(1, 2).unflatten(2, targets.shape[1:])
    wanted = head.loss_decode(logits, targets, ignore_index=255)
    found = head.loss(state, labels)['module0.loss_ce']
    torch.testing.assert_close(found, wanted)
    head.query_share = .25
    torch.manual_seed(3)
    draws = torch.tensor([head.loss(state, labels)['module0.loss_ce'].item()
                          for _ in range(200)])
    assert abs(draws.mean() - wanted) < 4 * draws.std() / 200**.5


@pytest.mark.parametrize('share', [1., .5])
def test_several_losses_are_added_by_name(share):
    _, state, labels = state_and_labels()
    cross = dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True)
    losses = []
    for decode in (cross, dict(cross, loss_weight=3.),
                   dict(type='mmseg.DiceLoss', loss_weight=2.),
                   [cross, dict(cross, loss_weight=3.),
                    dict(type='mmseg.DiceLoss', loss_weight=2.)]):
        torch.manual_seed(0)
        head = CroprSegHead(
            32, 5, 2, query_share=share, loss_decode=decode)
        losses.append(head.loss(state, labels))
    assert set(losses[3]) == {f'module{i}.loss_{kind}' for i in (0, 1)
                              for kind in ('ce', 'dice')}
    for i in (0, 1):
        torch.testing.assert_close(
            losses[3][f'module{i}.loss_ce'],
            losses[0][f'module{i}.loss_ce'] + losses[1][f'module{i}.loss_ce'])
        torch.testing.assert_close(losses[3][f'module{i}.loss_dice'],
                                   losses[2][f'module{i}.loss_dice'])


def test_all_queries_are_the_plain_loss(monkeypatch):
    rows = drawn(monkeypatch)
    _, state, labels = state_and_labels()
    head = CroprSegHead(32, 5, 2, query_share=1)
    found = head.loss(state, labels)['module1.loss_ce']
    targets = head.targets(state, labels)
    assert not rows
    assert found == head.loss_by_logits(head(state)[1], targets)['loss_ce']
    # One at the least
    head.query_share = 1e-3
    head.loss(state, labels)
    assert [len(r) for r in rows] == [1, 1]


@pytest.fixture
def at(monkeypatch):
    """Draws at an iteration of a run, on a rank, with a seed."""
    hub = MessageHub.get_current_instance()
    before = hub.get_info('iter', None)

    def at(iteration=5, rank=0, seed=1, module=0, calls=1):
        torch.manual_seed(seed)
        torch.rand(3)  # numbers drawn by others change nothing
        monkeypatch.setattr(query_draws, 'get_rank', lambda: rank)
        hub.update_info('iter', iteration)
        draws = QueryDraws()
        for _ in range(calls):
            draws.begin()
        return draws(module, 64, 16).tolist()

    yield at
    hub.update_info('iter', 0 if before is None else before)


def test_draws_follow_from_seed_iteration_rank_and_module(at):
    first = at()
    assert at() == first and first == sorted(set(first)) and len(first) == 16
    for other in (dict(iteration=6), dict(rank=1), dict(seed=2),
                  dict(module=1), dict(calls=2)):
        assert at(**other) != first, other
    torch.manual_seed(1)
    state = torch.get_rng_state()
    QueryDraws()(0, 64, 16)
    assert torch.get_rng_state().equal(state), 'the run draws as without'


def test_every_query_has_its_turn(at):
    counts = torch.zeros(64)
    for iteration in range(400):
        counts[at(iteration)] += 1
    # 100 on average; five standard deviations of a binomial
    assert (counts - 100).abs().max() < 5 * (400 * .25 * .75)**.5


@pytest.mark.parametrize('share', [0, -.1, 1.01, '0.5', None, True,
                                   float('nan')])
def test_bad_shares(share):
    with pytest.raises(ValueError, match='above 0 and up to 1; got'):
        CroprSegHead(32, 5, 2, query_share=share)
