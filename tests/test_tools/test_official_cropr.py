# Copyright (c) mmcropr contributors.
"""That converted weights give the authors' numbers is in test_vectors.py."""
import math
import sys

import pytest
import torch
from torch.nn import functional as F

from mmcropr.models import CroprViT
from mmcropr.models.heads import CroprMultiLabelHead
from tests.utils import group, load_tool, load_vectors

tool = load_tool('model_converters/official_cropr.py')


@pytest.fixture
def source(tmp_path):
    state = group(load_vectors('segmentation')[1], 'state.')
    torch.save(dict(model=state), tmp_path / 'official.pth')
    return tmp_path / 'official.pth', state


def run(monkeypatch, *args) -> None:
    monkeypatch.setattr(sys, 'argv', ['official_cropr.py', *map(str, args)])
    tool.main()


def test_command(source, tmp_path, monkeypatch, capsys):
    run(monkeypatch, source[0], tmp_path / 'sub/ours.pth')
    ours = torch.load(tmp_path / 'sub/ours.pth')['state_dict']
    assert len(ours) == len(source[1])
    assert torch.equal(ours['backbone.reducers.2.queries'],
                       source[1]['cropr.2.cross_attn.queries'][0])
    out = capsys.readouterr().out
    assert 'head.weight -> decode_head.conv_seg.weight (5, 32, 1, 1)' in out
    with pytest.raises(SystemExit):
        run(monkeypatch, source[0], tmp_path / 'sub/ours.pth')
    assert 'give --overwrite' in capsys.readouterr().err


def multi_head(state: dict) -> dict:
    """A checkpoint of the multi-head form (method.md, reference numbers)."""
    torch.manual_seed(0)
    for key, value in list(state.items()):
        if key.endswith('cross_attn.queries'):
            stem, dim = key[:-len('queries')], value.shape[-1]
            for name in ('q', 'k', 'v', 'proj'):
                state[f'{stem}{name}.weight'] = torch.randn(dim, dim) / 4
            state[f'{stem}proj.bias'] = torch.randn(dim)
            state[f'{stem}attn_norm.weight'] = torch.rand(dim) + 0.5
            state[f'{stem}attn_norm.bias'] = torch.randn(dim)
    return state


def test_multi_head_form():
    """Every converted weight does what its name says."""
    state = multi_head(group(load_vectors('classification_llf')[1], 'state.'))
    ours, _ = tool.convert(state)
    modules = sum(k.endswith('cross_attn.queries') for k in state)
    assert modules > 1
    dim, heads = state['cropr.0.cross_attn.q.weight'].shape[0], 4
    classes = state['head.weight'].shape[0]
    reducers = CroprViT(
        dict(family='vit', embed_dim=dim, depth=modules + 2, num_heads=2),
        img_size=64, reducer=dict(
            type='mmcropr.Cropr', rate=1, align=1, num_heads=heads)).reducers
    head = CroprMultiLabelHead(dim, classes, modules, num_heads=heads)
    reducers.load_state_dict(group(ours, 'backbone.reducers.'))
    head.load_state_dict(group(ours, 'head.auxiliary.'))

    tokens = torch.randn(2, 9, dim)
    for i, reducer in enumerate(reducers):
        s = group(state, f'cropr.{i}.')
        x = F.layer_norm(tokens, (dim, ), s['cross_attn.attn_norm.weight'],
                         s['cross_attn.attn_norm.bias'], 1e-6)
        query = s['cross_attn.queries'][0] @ s['cross_attn.q.weight'].T
        key, value = (x @ s[f'cross_attn.{n}.weight'].T for n in 'kv')
        read = []
        for part in torch.arange(dim).chunk(heads):
            logits = query[:, part] @ key[..., part].transpose(1, 2)
            weights = (logits / math.sqrt(dim // heads)).softmax(-1)
            read.append(weights @ value[..., part])
        read = F.linear(torch.cat(read, -1), s['cross_attn.proj.weight'],
                        s['cross_attn.proj.bias'])
        hidden = F.layer_norm(read, (dim, ), s['cross_attn.mlp_norm.weight'],
                              s['cross_attn.mlp_norm.bias'], 1e-6)
        hidden = F.gelu(F.linear(hidden, s['cross_attn.mlp.fc1.weight'],
                                 s['cross_attn.mlp.fc1.bias']))
        wanted = read + F.linear(hidden, s['cross_attn.mlp.fc2.weight'],
                                 s['cross_attn.mlp.fc2.bias'])
        logits, values = reducer.attend(tokens)
        found = head.aggregators[i](logits, values)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        # Scores are those of all queries and heads, not scaled
        torch.testing.assert_close(
            logits.sum((1, 2)), (query @ key.transpose(1, 2)).sum(1),
            rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('change, message', [
    (lambda s: s.pop('cropr.0.cross_attn.queries'), 'no Token Cropr'),
    (lambda s: s.update(stranger=torch.ones(2)), "unknown key 'stranger'"),
])  # yapf: disable
def test_other_checkpoints(source, change, message):
    change(source[1])
    with pytest.raises(ValueError, match=message):
        tool.convert(source[1])


def test_unreadable_source_writes_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / 'bad.pth').write_text('no checkpoint')
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path / 'bad.pth', tmp_path / 'ours.pth')
    assert 'cannot be read as a checkpoint' in capsys.readouterr().err
    assert not (tmp_path / 'ours.pth').exists()


def test_says_that_heads_are_needed(tmp_path, monkeypatch, capsys):
    state = multi_head(group(load_vectors('segmentation')[1], 'state.'))
    torch.save(dict(model=state), tmp_path / 'official.pth')
    run(monkeypatch, tmp_path / 'official.pth', tmp_path / 'ours.pth')
    assert 'the config needs num_heads' in capsys.readouterr().out
    ours = torch.load(tmp_path / 'ours.pth')['state_dict']
    assert 'auxiliary_head.aggregators.0.proj.bias' in ours
