# Copyright (c) mmcropr contributors.
"""EoMT against numbers of the authors' implementation."""
import pytest
import torch
from mmdet.models.dense_heads import mask2former_head
from mmengine.structures import InstanceData
from torch import Tensor, nn

from tests.eomt import convert, detector, draws, normalise, samples
from tests.utils import check_close, group, load_vectors


def reordered(allowed: Tensor, num_prefix: int = 5) -> Tensor:
    """A mask of ours (prefix, queries, patches) in the vectors' order."""
    order = list(range(allowed.shape[1]))
    queries = order[num_prefix:num_prefix + 7]
    order = queries + order[:num_prefix] + order[num_prefix + 7:]
    return allowed[:, order][:, :, order]


class Masks:
    """Keeps the masks that a head makes."""

    def __init__(self, head: nn.Module) -> None:
        self.found, self.make = [], head.attention_mask
        head.attention_mask = self

    def __call__(self, *args) -> Tensor:
        self.found.append(self.make(*args))
        return self.found[-1]


@pytest.fixture(scope='module')
def reference():
    return load_vectors('eomt')


@pytest.mark.parametrize('name, prob', [('on', 1.), ('off', 0.)])
def test_every_output_in_training(reference, name, prob):
    cfg, vectors = reference
    model = detector(cfg, vectors)
    head = model.panoptic_head
    head.attn_mask_probs.fill_(prob)
    masks = Masks(head)
    with torch.no_grad():
        found = head(model.extract_feat(normalise(vectors['input.image'])))
    for i, (classes, logits) in enumerate(zip(*found)):
        check_close(classes, vectors[f'{name}.class_logits.{i}'])
        check_close(logits, vectors[f'{name}.mask_logits.{i}'])
    assert len(found[0]) == 4
    for j, allowed in enumerate(masks.found):
        wanted = vectors[f'{name}.attn_mask.{j}']
        assert allowed is None if prob == 0 else torch.equal(
            reordered(allowed), wanted)
        assert prob or wanted.all()


def test_half_of_the_masks(reference):
    cfg, vectors = reference
    model = detector(cfg, vectors)
    head = model.panoptic_head
    head.attn_mask_probs.fill_(.5)
    masks = Masks(head)
    x = model.extract_feat(normalise(vectors['input.image']))
    with torch.no_grad(), draws(*group(vectors, 'half.rand.').values()):
        classes, logits = head(x)
    check_close(classes[-1], vectors['half.class_logits.3'])
    check_close(logits[-1], vectors['half.mask_logits.3'])
    for j, allowed in enumerate(masks.found):
        assert torch.equal(
            reordered(allowed), vectors[f'half.attn_mask.{j}'])


def test_without_masked_attention(reference):
    cfg, vectors = reference
    model = detector(cfg, vectors, head=dict(masked_attention=False)).eval()
    x = model.extract_feat(normalise(vectors['input.image']))
    with torch.no_grad():
        classes, logits = model.panoptic_head(x)
    assert len(classes) == len(logits) == 1
    check_close(classes[0], vectors['eval.class_logits'])
    check_close(logits[0], vectors['eval.mask_logits'])


def matches(head: nn.Module) -> list:
    """The matchings that a head makes from now on, (2, n) each."""
    found, single = [], head._get_targets_single

    def remember(*args):
        result = single(*args)
        found.append(torch.stack(
            [result[4], result[-1].pos_assigned_gt_inds]))
        return result

    head._get_targets_single = remember
    return found


def check_losses(model: nn.Module, reference: tuple, name: str,
                 *recorded: Tensor) -> None:
    """Losses, matchings and gradients of all outputs."""
    cfg, vectors = reference
    wanted = group(vectors, f'loss.{name}.')
    found = matches(model.panoptic_head)
    with draws(*recorded):
        losses = model.loss(
            normalise(vectors['input.image']), samples(vectors, 5))
    for key, ours, weight in (('class', 'cls', 2), ('mask', 'mask', 5),
                              ('dice', 'dice', 5)):
        values = torch.stack([
            losses[f'{prefix}loss_{ours}'].squeeze()
            for prefix in ('d0.', 'd1.', 'd2.', '')])
        check_close(values, weight * wanted[key], key)
    total = sum(losses.values()).squeeze()
    check_close(total, wanted['total'])
    for number, match in enumerate(found):
        truth = wanted[f'match.{number // 2}.{number % 2}']
        assert torch.equal(match, truth[:, truth[0].argsort()])
    total.backward()
    parameters = dict(model.named_parameters())
    grads = convert({**group(vectors, 'state.'), **group(wanted, 'grad.')})[0]
    for theirs in cfg['grads']:
        ours = convert({'q.weight': wanted['total'],
                        theirs: wanted['total']})[0].popitem()[0]
        check_close(parameters[ours].grad, grads[ours], ours)
    assert all(p.grad is not None for p in parameters.values())


def test_losses_at_recorded_points(reference):
    cfg, vectors = reference
    recorded = []
    for i in range(4):
        recorded += vectors['points.match'][i][:, None]
        recorded += [vectors['points.over'][i], vectors['points.rand'][i]]
    # Points of the matching are those of one image, (1, P, 2)
    check_losses(detector(cfg, vectors), reference, 'points', *recorded)


def test_losses_at_all_pixels(reference, monkeypatch):
    cfg, vectors = reference
    grid = vectors['points.grid']
    monkeypatch.setattr(
        mask2former_head, 'get_uncertain_point_coords_with_randomness',
        lambda masks, *args: grid.expand(len(masks), -1, -1))
    model = detector(cfg, vectors)
    model.panoptic_head.num_points = len(grid)
    check_losses(model, reference, 'grid', *grid.expand(8, 1, -1, -1))


def test_costs(reference):
    """What the matching goes by, at all pixels of the last output."""
    cfg, vectors = reference
    head = detector(cfg, vectors).panoptic_head
    for image in range(2):
        masks = vectors[f'target.{image}.masks'].float()
        at_points = mask2former_head.point_sample(
            masks[:, None], vectors['points.grid'].expand(len(masks), -1, -1))
        prediction = InstanceData(
            scores=vectors['on.class_logits.3'][image],
            masks=vectors['on.mask_logits.3'][image].flatten(1))
        truth = InstanceData(
            labels=vectors[f'target.{image}.labels'], masks=at_points[:, 0])
        cost = sum(c(prediction, truth) for c in head.assigner.match_costs)
        check_close(cost, vectors[f'loss.grid.cost.3.{image}'])
