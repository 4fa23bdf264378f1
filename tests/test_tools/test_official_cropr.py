# Copyright (c) mmcropr contributors.
"""That converted weights give the authors' numbers is in test_vectors.py."""
import sys

import pytest
import torch

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


@pytest.mark.parametrize('change, message', [
    (lambda s: s.pop('cropr.0.cross_attn.queries'), 'no Token Cropr'),
    (lambda s: s.update(stranger=torch.ones(2)), "unknown key 'stranger'"),
    (lambda s: s.update({'cropr.0.cross_attn.q.weight': torch.ones(2)}),
     'multi-head cross-attention'),
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
