# Copyright (c) mmcropr contributors.
"""The toy network of the compared methods' vectors."""
import torch
from safetensors.torch import load_file

from mmcropr.models import CroprViT
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


def reordered(wanted: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Patches of a sequence with a class token in another order."""
    rows = order[..., None].expand(-1, -1, wanted.shape[2])
    return torch.cat([wanted[:, :1], wanted[:, 1:].gather(1, rows)], dim=1)
