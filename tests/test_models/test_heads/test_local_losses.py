# Copyright (c) mmcropr contributors.
"""Local losses are the plain sum of losses, for less memory."""
import copy

import pytest
import torch
from mmengine.structures import InstanceData
from mmpretrain.models.losses import CrossEntropyLoss
from mmpretrain.structures import DataSample
from torch import nn

from mmcropr.models import CroprMultiLabelHead, CroprSegHead, CroprViT
from mmcropr.models.heads.label_head import CroprLabelHead
from mmcropr.models.heads.local_losses import GradScale, local_losses
from tests.test_models.test_vectors import samples
from tests.utils import TINY

QUERIES = dict(seg='patch', det='image', cls='image')


class Learner(nn.Module):
    """A backbone and the auxiliary head of a task, without its other head."""

    def __init__(self, task='seg', reducer={}, **head):
        super().__init__()
        torch.manual_seed(0)
        reducer = dict(
            type='mmcropr.Cropr', rate=4, align=1, num_queries=QUERIES[task],
            **reducer)  # yapf: disable
        self.backbone = CroprViT(
            TINY, img_size=64, out_type='tokens', reducer=reducer)
        head.update(in_channels=32, num_classes=5, num_modules=2)
        if task == 'cls':
            self.head = CroprLabelHead(loss=CrossEntropyLoss(), **head)
        else:
            kind = CroprSegHead if task == 'seg' else CroprMultiLabelHead
            self.head = kind(**head)
        self.task = task
        # Not at its first values, of which many are 0
        for parameter in self.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)

    def targets(self, count):
        if self.task == 'seg':
            return samples(torch.randint(0, 5, (count, 64, 64)))
        if self.task == 'cls':
            return [DataSample().set_gt_label(i % 5) for i in range(count)]
        labels = (torch.tensor([i % 5, 2]) for i in range(count))
        return [DataSample(gt_instances=InstanceData(labels=x))
                for x in labels]

    def forward(self, seed=1, count=2):
        torch.manual_seed(seed)
        state = self.backbone(torch.randn(count, 3, 64, 64))
        return self.head.loss(state, self.targets(count))


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters()
            if p.grad is not None}


def both(factor=1., context=None, **options):
    """Losses and gradients of the plain sum, and of local losses."""
    results = []
    for local in (False, True):
        model = Learner(local=local, **options).train()
        with context or torch.autocast('cpu', enabled=False):
            losses = model()
        (factor * sum(losses.values())).backward()
        results.append((losses, gradients(model)))
    return results


def same(one, two, **tolerance):
    assert one.keys() == two.keys() and one
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, msg=lambda m: f'{key} {m}',
                                   **tolerance)


@pytest.mark.parametrize('options', [
    dict(), dict(mlp_ratio=0.), dict(num_heads=1), dict(num_heads=4)])
@pytest.mark.parametrize('task', ['seg', 'det', 'cls'])
def test_losses_and_gradients_are_those_of_the_sum(task, options):
    heads = {k: v for k, v in options.items() if k == 'num_heads'}
    (losses, wanted), (local, found) = both(
        factor=2., task=task, reducer=heads, **options)
    same(losses, local, rtol=0, atol=0)
    same(wanted, found, rtol=0, atol=0)
    names = set(found)
    assert {'backbone.reducers.0.queries', 'backbone.reducers.1.queries',
            'head.fcs.1.bias'} < names
    assert not [name for name in names if 'vit' in name]


def saved_bytes(function):
    """Bytes that a function keeps for the backward pass, at its end and at
    most, each tensor's memory once; and what it returned."""
    alive, most = {}, [0]

    class Kept:

        def __init__(self, tensor):
            self.tensor, self.key = tensor, tensor.untyped_storage().data_ptr()
            count, size = alive.get(self.key, (0, 0))
            size = tensor.untyped_storage().nbytes()
            alive[self.key] = count + 1, size
            most[0] = max(most[0], sum(s for _, s in alive.values()))

        def __del__(self):
            count, size = alive.pop(self.key)
            if count > 1:
                alive[self.key] = count - 1, size

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda k: k.tensor):
        out = function()
    return sum(size for _, size in alive.values()), most[0], out


def test_one_module_at_a_time_keeps_its_activations():
    kept, most = {}, {}
    for modules in (2, 6):
        for local in (False, True):
            torch.manual_seed(0)
            backbone = CroprViT(
                dict(TINY, depth=8), img_size=64, out_type='tokens',
                reducer=dict(type='mmcropr.Cropr', keep=[16] * modules,
                             align=1, num_queries='patch',
                             modules=list(range(modules)))).train()
            head = CroprSegHead(32, 5, modules, local=local)
            state = backbone(torch.randn(8, 3, 64, 64))
            labels = samples(torch.randint(0, 5, (8, 64, 64)))
            kept[modules, local], most[modules, local], losses = saved_bytes(
                lambda: head.loss(state, labels))
            assert len(losses) == modules
            learnt = [*head.parameters(), *backbone.reducers.parameters()]
            grads = 4 * sum(p.numel() for p in learnt)
            if local:  # their gradients, and a scale for each module
                assert grads <= kept[modules, True] < grads + 99 * modules
    assert kept[6, False] > 2.5 * kept[2, False]
    one = kept[2, False] / 2
    assert most[6, True] - kept[6, True] < 1.1 * one


def test_gradients_into_the_backbone_need_the_sum():
    """No argument: where losses go on, they are not local."""
    grads = []
    for local in (None, False):
        model = Learner(reducer=dict(stop_gradient=False), local=local)
        sum(model.train()().values()).backward()
        grads.append(gradients(model))
    same(*grads, rtol=0, atol=0)
    assert grads[0]['backbone.vit.patch_embed.proj.weight'].any()
    model = Learner(reducer=dict(stop_gradient=False), local=True)
    with pytest.raises(ValueError, match='local=True .*stop_gradient=False'):
        model.head.check_backbone(model.backbone)
    for wrong in ('yes', 0, 1):
        with pytest.raises(ValueError, match='True, False or None, got'):
            Learner(local=wrong)


def test_accumulation():
    model, twice = (Learner().train() for _ in range(2))
    for seed in (1, 2):
        sum(model(seed).values()).div(2).backward()
    total = sum(twice(1).values()) + sum(twice(2).values())
    total.div(2).backward()
    same(gradients(model), gradients(twice), rtol=1e-6, atol=1e-9)


def test_a_module_of_nan_spoils_its_own_gradients_only():
    model = Learner().train()
    model.backbone.reducers[1].queries.data[0, 0] = torch.nan
    losses = model()
    assert losses['module0.loss_ce'].isfinite()
    assert losses['module1.loss_ce'].isnan()
    sum(losses.values()).backward()
    found = gradients(model)
    assert found['head.fcs.0.weight'].isfinite().all()
    assert found['backbone.reducers.0.queries'].isfinite().all()
    assert found['head.fcs.1.weight'].isnan().any()


def test_what_is_frozen_gets_no_gradient():
    model = Learner().train()
    model.backbone.reducers[0].requires_grad_(False)
    model.head.aggregators.requires_grad_(False)
    sum(model().values()).backward()
    found = gradients(model)
    assert 'backbone.reducers.1.queries' in found
    assert 'backbone.reducers.0.queries' not in found
    assert not [name for name in found if 'aggregators' in name]
    model.requires_grad_(False)
    assert not any(loss.requires_grad for loss in model().values())


def test_without_gradients_and_copies():
    model = Learner().train()
    with torch.no_grad():
        found = model()
    assert not any(loss.requires_grad for loss in found.values())
    same(found, {k: v.detach() for k, v in model().items()}, rtol=0, atol=0)
    twin = copy.deepcopy(model)
    sum(twin().values()).backward()
    assert gradients(twin) and not gradients(model)


def test_several_losses_of_one_module():
    """Their sum is differentiated once; what is no loss is left alone."""
    weight = nn.Parameter(torch.tensor([1., 2.]))
    found = local_losses(
        lambda: dict(acc=torch.tensor(5), loss_a=weight.square(),
                     loss_b=[3 * weight.sum(), weight[:1]]), [weight],
        GradScale())
    assert found['loss_a'] == 2.5 and found['loss_b'] == 10.
    assert found['acc'].dtype == torch.long
    assert not found['loss_b'].requires_grad
    (10 * (found['loss_a'] + found['loss_b'])).backward()
    assert weight.grad.tolist() == [50., 50.]


def test_weights_of_the_head_wherever_they_are():
    """Of a loss, and of a layer that all modules share."""

    class Shared(CroprSegHead):

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.shared = nn.Linear(32, 5)
            self.loss_decode.weight = nn.Parameter(torch.ones(()))

        def predict(self, module, route, rows=None):
            logits, tokens = route.read(rows)
            x = self.aggregators[module](logits, tokens)
            return self.shared(x) * self.loss_decode.weight

    grads = []
    for local in (None, False):
        model = Learner(local=local).train()
        torch.manual_seed(5)
        model.head = Shared(32, 5, 2, local=local)
        sum(model().values()).backward()
        grads.append(gradients(model))
    same(*grads, rtol=1e-5, atol=1e-7)
    assert {'head.shared.weight', 'head.loss_decode.weight'} <= set(grads[0])


def test_units_of_fsdp_get_the_sum():
    """Their weights are there in their own passes only."""

    class FSDPModule(nn.Linear):
        """By the name that torch gives to sharded modules."""

    model = Learner().train()
    assert 'HandOver' in str(model()['module0.loss_ce'].grad_fn)
    model.head.fcs[0] = FSDPModule(32, 5)
    assert 'HandOver' not in str(model()['module0.loss_ce'].grad_fn)


@pytest.mark.skipif(not hasattr(torch, 'get_autocast_dtype'),
                    reason='compiling needs torch 2.4')
def test_a_compiled_model_learns_the_same():
    """The graph ends where gradients are taken, and goes on behind."""
    plain, compiled = Learner().train(), Learner().train()
    sum(plain().values()).backward()
    losses = torch.compile(compiled.forward, backend='eager')()
    sum(losses.values()).backward()
    same(gradients(plain), gradients(compiled), rtol=0, atol=0)
