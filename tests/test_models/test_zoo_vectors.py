# Copyright (c) mmcropr contributors.
"""The compared methods against numbers of their public implementations
(docs/en/advanced_guides/compared_methods.md): merging and mixing."""
import pytest
import torch

from mmcropr.models import CroprViT
from mmcropr.models.reducers import DPCKNN
from mmcropr.models.reducers.tome import match_tokens, merge_tokens
from tests.zoo import build, check, check_run, load


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
