# Copyright (c) mmcropr contributors.
import sys
from collections import OrderedDict

import pytest
import torch

from tests.utils import group, load_tool, load_vectors

tool = load_tool('model_converters/official_eomt.py')


@pytest.fixture
def state():
    return group(load_vectors('eomt')[1], 'state.')


def run(monkeypatch, *args):
    monkeypatch.setattr(sys, 'argv', ['official_eomt', *map(str, args)])
    tool.main()


def test_every_key_is_reported(state, tmp_path, monkeypatch, capsys):
    """That the result is the same model: test_eomt_vectors.py."""
    saved = {f'network.{key}': value for key, value in state.items()}
    saved['criterion.empty_weight'] = torch.ones(6)
    torch.save(dict(state_dict=saved), tmp_path / 'theirs.bin')
    run(monkeypatch, tmp_path / 'theirs.bin', tmp_path / 'ours.pth', '--head',
        'decode_head')
    lines = capsys.readouterr().out.splitlines()
    for key in state:
        line, = (line for line in lines if line.split(' ')[0] == key)
        assert ('left out' in line) == ('pixel_' in key)
    assert any('criterion.empty_weight' in line for line in lines)
    ours = torch.load(tmp_path / 'ours.pth')['state_dict']
    assert len(ours) == len(state) - 2
    assert torch.equal(ours['decode_head.query_feat.weight'],
                       state['q.weight'])
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path / 'theirs.bin', tmp_path / 'ours.pth')
    assert '--overwrite' in capsys.readouterr().err


def test_differences_to_a_base(state):
    backbone = {key[len(tool.BACKBONE):]: torch.randn_like(value)
                for key, value in state.items() if tool.BACKBONE in key}
    changed = OrderedDict(
        (key, value - backbone[key[len(tool.BACKBONE):]]
         if tool.BACKBONE in key else value) for key, value in state.items())
    changed['attn_mask_probs'] = torch.tensor([-1., -.5, 0.])
    found, wanted = tool.convert(changed, base=backbone), tool.convert(state)
    for key, value in wanted[0].items():
        if 'probs' not in key:
            torch.testing.assert_close(found[0][key], value)
    assert found[0]['panoptic_head.attn_mask_probs'].tolist() == [0., .5, 1.]
    backbone['norm.bias'] = torch.zeros(3)
    with pytest.raises(ValueError, match=r'norm.bias \(48,\) is \(3,\) in'):
        tool.convert(changed, base=backbone)
    del backbone['norm.bias']
    with pytest.raises(ValueError, match=r'norm.bias \(48,\) is not there'):
        tool.convert(changed, base=backbone)


@pytest.mark.parametrize('change, message', [
    (lambda s: s.pop('q.weight'), 'no EoMT checkpoint'),
    (lambda s: s.update(stranger=torch.ones(2)), "unknown key 'stranger'"),
])
def test_other_checkpoints(state, change, message):
    change(state)
    with pytest.raises(ValueError, match=message):
        tool.convert(state)
