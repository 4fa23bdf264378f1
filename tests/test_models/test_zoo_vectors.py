# Copyright (c) mmcropr contributors.
"""The compared methods against numbers of their public implementations
(compared_methods.md): every block's output, what is kept or merged, and
gradients."""
import pytest
import torch
from safetensors.torch import load_file

from mmcropr.models import CroprViT
from mmcropr.models.heads.dynamic_vit_head import (class_loss, ratio_loss,
                                                   token_loss)
from mmcropr.models.reducers import DPCKNN, DynamicViT, KMedoids
from mmcropr.models.reducers.k_medoids import cluster_medoids
from mmcropr.models.reducers.tome import match_tokens, merge_tokens
from tests.utils import VECTORS, group

RENAMED = {'v': 'centres'}


def load(method: str) -> dict:
    return load_file(VECTORS / f'zoo/{method}.safetensors')


def check(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 2e-5,
          what: str = '') -> None:
    """Equal in the mixed measure of compared_methods.md."""
    assert found.shape == wanted.shape, (what, found.shape, wanted.shape)
    error = ((found - wanted).abs() / (1 + wanted.abs())).max()
    assert error < tolerance, (what, error)


def build(vectors: dict, **reducer) -> CroprViT:
    """The toy network of the vectors: 16 patches of width 16, 4 blocks,
    reduction before blocks ``cfg.locs``."""
    dim = vectors['in.x'].shape[2]
    depth, heads = (int(vectors[f'cfg.{k}']) for k in ('depth', 'num_heads'))
    model = CroprViT(
        dict(family='vit', embed_dim=dim, depth=depth, num_heads=heads,
             mlp_ratio=2.),
        img_size=64, patch_size=16, out_type='tokens',
        reducer=dict(reducer, align=1)).eval()
    state = group(vectors, 'param.')
    vit = {k: v for k, v in state.items() if k.startswith(('blocks', 'norm'))}
    missing = model.vit.load_state_dict(vit, strict=False)
    assert not missing.unexpected_keys
    for number, module in enumerate(model.reducers):
        own = {
            RENAMED.get(k, k): v
            for name in ('cluster_layers', 'score_predictor')
            for k, v in group(state, f'{name}.{number}.').items()
        }
        module.load_state_dict(own)  # strict
    return model


def run(model: CroprViT, x: torch.Tensor) -> tuple:
    """All blocks, the last one on what is left -> outputs, state."""
    state = model.trunk.embed(torch.zeros(len(x), 3, 64, 64))
    state.x = x
    plan, outputs = model.plan(state.grid), []
    for number in range(model.trunk.depth - 1):
        if number in plan and model.reducers[0].stage == 'block':
            state = model.trunk.block(number, state)
            outputs.append(state.x)
            state.module = plan[number][0]
            state = model.reducers[state.module](state, plan[number][1])
        else:
            state = model.run_block(number, state, plan.get(number))
            outputs.append(state.x)
        state.cache.setdefault('slots', []).append(state.trace()[0])
    return outputs + [state.finish_block()], state


def check_run(model: CroprViT, vectors: dict) -> tuple:
    """Outputs of all blocks and the gradients of the toy's loss."""
    x = vectors['in.x'].clone().requires_grad_()
    outputs, state = run(model, x)
    for number, found in enumerate(outputs):
        check(found, vectors[f'out.blk{number}.x'], what=f'block {number}')
    (outputs[-1] * vectors['in.cot']).sum().backward()
    check(x.grad, vectors['out.grad.x'], 1e-4, 'x')
    for number, module in enumerate(model.reducers):
        wanted = group(vectors, f'out.grad.cluster_layers.{number}.')
        parameters = dict(module.named_parameters())
        assert len(wanted) == len(parameters)
        for name, value in wanted.items():
            check(parameters[RENAMED.get(name, name)].grad, value, 1e-4, name)
    return outputs, state


@pytest.mark.parametrize('method, reducer', [
    ('patchmerger', 'PatchMerger'),
    ('sit', 'SiT'),
    ('sinkhorn', 'Sinkhorn'),
])
def test_soft_merging(method, reducer):
    vectors = load(method)
    keep = [int(c) + 1 for c in vectors['cfg.counts']]
    model = build(vectors, type=f'mmcropr.{reducer}', keep=keep,
                  modules=[int(i) - 1 for i in vectors['cfg.locs']])
    outputs, state = check_run(model, vectors)
    shares = vectors['derived.soft_map']
    mixed, = state.steps
    check(mixed.weights, shares)
    for number, module in enumerate(model.reducers):
        x = vectors[f'out.red{number}.x_in']
        mixed, weights = module.mix(x)
        check(mixed, vectors[f'out.red{number}.x'])
        check(weights, vectors[f'out.red{number}.weight'])
        assert weights.argmax(1).equal(vectors[f'out.red{number}.hard'])
    spread = shares.transpose(1, 2) @ state.x[:, 1:]
    spread = spread / shares.sum(1)[..., None]
    check(state.full()[:, 1:], spread, 1e-4)


def test_scaled_patch_merger():
    vectors = load('patchmerger')
    module = build(
        vectors, type='mmcropr.PatchMerger', keep=[12, 8], modules=[0, 1],
        scaled=True).reducers[0]
    mixed, weights = module.mix(vectors['out.red0.x_in'])
    check(mixed, vectors['out.scaled.x'])
    check(weights, vectors['out.scaled.weight'])


def test_dpc_knn(monkeypatch):
    vectors = load('dpcknn')
    noise = {
        vectors[f'in.noise{i}'].shape: vectors[f'in.noise{i}'] * 1e-6
        for i in range(2)}
    monkeypatch.setattr(DPCKNN, 'jitter',
                        lambda self, patches: noise[patches.shape[:2]])
    model = build(vectors, type='mmcropr.DPCKNN', keep=[12, 8],
                  modules=[0, 1])
    _, state = check_run(model, vectors)
    source = vectors['derived.patch_to_token']
    assert state.trace()[0].equal(source)
    wanted = state.x[:, 1:].gather(
        1, source[..., None].expand(-1, -1, state.x.shape[2]))
    check(state.full()[:, 1:], wanted)


def test_dpc_knn_with_equal_weights(monkeypatch):
    vectors = load('dpcknn')
    monkeypatch.setattr(DPCKNN, 'jitter', lambda self, patches: vectors[
        'in.noise0'] * 1e-6)
    model = CroprViT(
        dict(family='vit', embed_dim=16, depth=4, num_heads=2), img_size=64,
        patch_size=16, reducer=dict(
            type='mmcropr.DPCKNN', keep=[12], modules=[0], weighted=False))
    state = model.trunk.embed(torch.zeros(2, 3, 64, 64))
    patches = vectors['out.red0.x_in']
    state.x = torch.cat([state.x[:, :1], patches], dim=1)
    state = model.reducers[0](state, 12)
    check(state.x[:, 1:], vectors['out.equal.x'])


def check_unfused(model, vectors, prefix=''):
    """Outputs of methods that keep by class attention: ours keep their order,
    the reference sorts them by score."""
    x = vectors['in.x'].clone().requires_grad_()
    outputs, state = run(model, x)
    kept = order = torch.arange(16).expand(2, -1)
    for number, found in enumerate(outputs):
        index = vectors.get(f'out.{prefix}blk{number}.idx')
        if index is not None:
            # Where each of ours, in raster order, is in the reference
            kept = kept.gather(1, index)
            order = kept.argsort(1)
        check(found, reordered(vectors[f'out.{prefix}blk{number}.x'], order),
              what=f'block {number}')
    assert state.index.equal(kept.sort(1)[0])
    return outputs, x, order


def test_top_k():
    vectors = load('topk')
    modules = [int(i) for i in vectors['cfg.locs']]
    counts = [vectors[f'out.blk{i}.idx'].shape[1] for i in modules]
    model = build(vectors, type='mmcropr.TopK', keep=[c + 1 for c in counts],
                  modules=modules)
    outputs, x, order = check_unfused(model, vectors)
    (outputs[-1] * reordered(vectors['in.cot'], order)).sum().backward()
    check(x.grad, vectors['out.grad.x'], 1e-4)


@pytest.mark.parametrize('reducer', [
    dict(type='mmcropr.EViT', fuse=False), dict(type='mmcropr.TopK')])
def test_evit_without_fusion(reducer):
    vectors = load('evit')
    modules = [int(i) for i in vectors['cfg.locs']]
    counts = [vectors[f'out.nofuse.blk{i}.idx'].shape[1] for i in modules]
    model = build(vectors, keep=[c + 1 for c in counts], modules=modules,
                  **reducer)
    check_unfused(model, vectors, 'nofuse.')


def reordered(wanted: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Patches of a sequence with a class token in another order."""
    rows = order[..., None].expand(-1, -1, wanted.shape[2])
    return torch.cat([wanted[:, :1], wanted[:, 1:].gather(1, rows)], dim=1)


def test_to_me():
    vectors = load('tome')
    counts = [int(r) for r in vectors['cfg.r']]
    sizes, length, modules = [], 17, []
    for block, count in enumerate(counts):
        count = min(count, (length - 1) // 2)
        if count:
            length -= count
            sizes.append(length)
            modules.append(block)
    model = build(vectors, type='mmcropr.ToMe', keep=sizes, modules=modules)
    _, state = check_run(model, vectors)
    last = modules[-1]
    source = vectors[f'out.blk{last}.source'].long()
    assert (state.trace()[0] + 1).equal(source.argmax(1)[:, 1:])
    check(state.size, vectors[f'out.blk{last}.size'][..., 0])
    full = state.x.gather(1, source.argmax(1)[..., None].expand(-1, -1, 16))
    check(state.full(), full)


def test_matching_of_to_me():
    """Without any special token, and with two."""
    vectors = load('tome')
    count = int(vectors['cfg.bsm_r'])
    found = match_tokens(vectors['in.bsm.metric'], count, 0)
    assert found.source.equal(2 * vectors['out.bsm.src_idx'].view(
        found.source.shape))
    assert found.target.equal(2 * vectors['out.bsm.dst_idx'].view(
        found.target.shape) + 1)
    evens = len(vectors['in.bsm.metric'][0, ::2]) - count
    assert found.kept[:, :evens].equal(2 * vectors['out.bsm.unm_idx'])
    x, size = vectors['in.bsm.x'], vectors['in.bsm.size'][..., 0]
    x, size = merge_tokens(x, size, found)
    check(x, vectors['out.bsm.x'])
    check(size, vectors['out.bsm.size'][..., 0])
    # class and distillation token are protected
    two = match_tokens(vectors['in.bsm.metric'], count, 2)
    x, size = merge_tokens(vectors['in.bsm.x'], vectors['in.bsm.size'][..., 0],
                           two)
    check(x, vectors['out.bsm_dist.x'])
    check(size, vectors['out.bsm_dist.size'][..., 0])
    assert two.kept[:, :2].tolist() == [[0, 1]] * len(two.kept)
    assert 1 not in two.target and 0 not in two.source


def test_matching_does_not_depend_on_autocast():
    torch.manual_seed(0)
    keys = torch.randn(2, 197, 64) + 3 * torch.randn(64)
    wanted = match_tokens(keys, 40, 1)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = match_tokens(keys, 40, 1)
    assert all(a.equal(b) for a, b in zip(found, wanted))


@pytest.mark.parametrize('prefix', ['', 'tr.'])
def test_evit(prefix):
    """The reference sorts kept patches by score and ours stay in order; the
    fused token is the last of both. It ends the lists of the second flavour,
    as -1."""
    vectors = load('evit')
    modules = [int(i) for i in vectors['cfg.locs']]
    indices = {i: vectors[f'out.{prefix}blk{i}.idx'] for i in modules}
    if prefix:
        assert all((index[:, -1] == -1).all() for index in indices.values())
        indices = {i: index[:, :-1] for i, index in indices.items()}
    model = build(
        vectors, type='mmcropr.EViT', modules=modules,
        keep=[index.shape[1] + 2 for index in indices.values()])
    x = vectors['in.x'].clone().requires_grad_()
    outputs, state = run(model, x)
    # Ours at stage j in terms of the slots of the reference
    order = torch.arange(16).expand(2, -1)
    for number, found in enumerate(outputs):
        if number in modules:
            index = indices[number]
            ours = [
                [index[b].tolist().index(s) for s in order[b].tolist()
                 if s in index[b].tolist()] + [index.shape[1]]
                for b in range(2)]
            order = torch.tensor(ours)
        wanted = vectors[f'out.{prefix}blk{number}.x']
        check(found, reordered(wanted, order), what=f'block {number}')
    if not prefix:
        (outputs[-1] * reordered(vectors['in.cot'], order)).sum().backward()
        check(x.grad, vectors['out.grad.x'], 1e-4)
    assert order.gather(1, state.trace()[0]).equal(
        vectors[f'derived.{prefix}patch_to_token'])


def test_k_medoids():
    vectors = load('kmedoids')
    model = build(vectors, type='mmcropr.KMedoids', keep=[12, 8],
                  modules=[int(i) - 1 for i in vectors['cfg.locs']],
                  iters=int(vectors['cfg.iters']))
    _, state = check_run(model, vectors)
    assert state.trace()[0].equal(vectors['derived.patch_to_token'])


def test_k_medoids_with_equal_weights(monkeypatch):
    vectors = load('kmedoids')
    monkeypatch.setattr(KMedoids, 'first', lambda self, length: int(
        vectors['in.equal.first_index']))
    module = KMedoids(16, iters=int(vectors['cfg.iters']), weighted=False)
    patches = vectors['out.red0.x_in']
    distance = torch.cdist(patches, patches)
    first = module.far_apart(distance, 11)
    assert first.equal(vectors['out.equal.init_centers'])
    medoids, clusters = cluster_medoids(
        distance, torch.ones(2, 16), first, module.iters)
    assert medoids.equal(vectors['out.equal.centers'])
    assert clusters.equal(vectors['out.equal.assign'])


def test_ats():
    """Fillings lie elsewhere in ours, so real tokens are compared."""
    vectors = load('ats')
    modules = [int(i) for i in vectors['cfg.locs']]
    model = build(vectors, type='mmcropr.ATS', modules=modules,
                  keep=[int(k) for k in vectors['cfg.sample_count']])
    x = vectors['in.x'].clone().requires_grad_()
    outputs, state = run(model, x)
    loss = 0.
    for number, found in enumerate(outputs):
        wanted = vectors[f'out.blk{number}.x']
        if number < modules[0]:
            check(found, wanted)
            continue
        last = max(i for i in modules if i <= number)
        kept = vectors[f'derived.blk{last}.kept_patches']
        for image in range(len(x)):
            # Ours at this stage, by the places of their patches
            places = kept[image][kept[image] >= 0]
            assert vectors[f'out.blk{number}.mask'][image].sum() == (
                len(places) + 1)
            slots = state.cache['slots'][last][image, places]
            assert (slots >= 0).all()
            rows = torch.cat([slots.new_zeros(1), slots + 1])
            check(found[image, rows], wanted[image, :len(rows)],
                  what=f'block {number}')
            if number == len(outputs) - 1:
                cot = vectors['in.cot'][image, :len(rows)]
                loss = loss + (found[image, rows] * cot).sum()
    loss.backward()
    check(x.grad, vectors['out.grad.x'], 1e-4)


def build_dynamic_vit(vectors):
    return build(vectors, type='mmcropr.DynamicViT', keep=[12, 8],
                 modules=[int(i) - 1 for i in vectors['cfg.locs']])


def logits_of(vectors, tokens):
    tokens = torch.nn.functional.layer_norm(
        tokens, tokens.shape[-1:], vectors['param.norm.weight'],
        vectors['param.norm.bias'], eps=float(vectors['cfg.ln_eps']))
    return tokens, torch.nn.functional.linear(
        tokens[:, 0], vectors['param.head.weight'], vectors['param.head.bias'])


def test_dynamic_vit_at_test_time():
    """Ours keep their order, the reference sorts them by score."""
    vectors = load('dynamicvit')
    model = build_dynamic_vit(vectors)
    with torch.no_grad():
        outputs, state = run(model, vectors['in.x'])
    order = torch.arange(16).expand(2, -1)
    for number, found in enumerate(outputs):
        if number in (1, 2):
            kept = vectors[f'derived.eval.pred{number - 1}.kept_patches']
            order = kept.argsort(1)
        check(found, reordered(vectors[f'out.eval.blk{number}.x'], order),
              what=f'block {number}')
    assert state.index.equal(kept.sort(1)[0])
    check(logits_of(vectors, outputs[-1])[1], vectors['out.eval.logits'])
    wanted = vectors['out.eval.pred0.logp']
    patches = vectors['out.eval.blk0.x'][:, 1:]
    with torch.no_grad():
        found = model.reducers[0].predict(patches, torch.ones(2, 16))
    check(found, wanted)


def test_dynamic_vit_in_training(monkeypatch):
    """Decisions, policy attention, losses and all gradients."""
    vectors = load('dynamicvit')
    draws = iter([vectors[f'in.train.gumbel{j}'] for j in range(2)])
    monkeypatch.setattr(DynamicViT, 'noise', lambda self, x: next(draws))
    model = build_dynamic_vit(vectors).train()
    x = vectors['in.x'].clone().requires_grad_()
    outputs, state = run(model, x)
    for number, found in enumerate(outputs):
        check(found, vectors[f'out.train.blk{number}.x'],
              what=f'block {number}')
    for number, decision in enumerate(state.routes):
        wanted = vectors[f'out.train.pred{number}.decision'].round()
        assert decision.keep.equal(wanted)
    assert state.keep.equal(vectors['out.train.final_decision'].round())

    tokens, logits = logits_of(vectors, outputs[-1])
    check(logits, vectors['out.train.logits'])
    check(tokens[:, 1:], vectors['out.train.features'])
    shares = [(k - 1) / 16 for k in (12, 8)]
    assert [d.share for d in state.routes] == shares
    # The reference asks for 0.7 and 0.49, not for the share of whole tokens
    decisions = [d._replace(share=float(s))
                 for d, s in zip(state.routes, vectors['cfg.token_ratio'])]
    teacher = vectors['in.loss.teacher_tokens']
    keep = state.keep.detach()
    found = dict(
        ce=torch.nn.functional.cross_entropy(
            logits, vectors['in.loss.labels']),
        ratio=ratio_loss(decisions),
        cls_kl=class_loss(logits, vectors['in.loss.teacher_logits']),
        token_mse=token_loss(tokens[:, 1:], teacher, keep, 'mse'),
        token_kl=token_loss(tokens[:, 1:], teacher, keep, 'kl'))
    for name, value in found.items():
        check(value, vectors[f'out.loss.{name}'], what=name)

    ce, ratio, classes, token = vectors['cfg.loss_weights'].float()
    total = (ce * found['ce'] + ratio * found['ratio']
             + classes * found['cls_kl'] + token * found['token_mse'])
    check(total, vectors['out.loss.total_mse'])
    total.backward()
    check(x.grad, vectors['out.grad.x'], 1e-4)
    for number, module in enumerate(model.reducers):
        wanted = group(vectors, f'out.grad.score_predictor.{number}.')
        parameters = dict(module.named_parameters())
        assert wanted.keys() == parameters.keys()
        for name, value in wanted.items():
            check(parameters[name].grad, value, 1e-4, name)
