# Copyright (c) mmcropr contributors.
"""What runtimes make of pruning: the benchmark of exported files."""
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config

from tests.deploy import skip_without
from tests.utils import ROOT, load_tool

skip_without()
benchmark = load_tool('deploy/benchmark.py')
NAME = 'digits-eva_linear_1xb32-4e_digits-scenes-96x96.py'
CROPR = str(ROOT / f'configs/cropr/cropr-tpr78_{NAME}')
NONE = str(ROOT / f'configs/no_pruning/{NAME}')


def run(monkeypatch, *args):
    monkeypatch.setattr(sys, 'argv', ['benchmark.py', *map(str, args)])
    benchmark.main()


@pytest.mark.parametrize('part', ['whole', 'encoder'])
def test_config_in_a_format(tmp_path, monkeypatch, capsys, part):
    out = tmp_path / 'b.json'
    run(monkeypatch, '--config', CROPR, '--shape', 96, 96, '--formats',
        'torch-export', '--rounds', 3, '--warmup', 1, '--json', out, '--part',
        part)
    rows = json.loads(out.read_text())['results']
    assert [row['format'] for row in rows] == (
        ['pytorch'] * 3 + ['torch-export'] * 3)
    assert [row['file'] for row in rows[:3]] == [
        f'no pruning ({CROPR})', f'ideal slicing ({CROPR})', CROPR]
    for row in (rows[2], rows[5]):
        assert row['ratio_to_no_pruning'] > 0
        assert row['ratio_to_ideal_slicing'] > 0
    assert rows[2]['ratio_kept'] == 1
    assert rows[5]['ratio_kept'] == pytest.approx(
        rows[5]['ratio_to_no_pruning'] / rows[2]['ratio_to_no_pruning'])
    for row in (rows[0], rows[3]):
        assert row['ratio_to_no_pruning'] is None
    assert 'torch-export' in capsys.readouterr().out


def test_outputs_are_those_of_the_config(tmp_path):
    """What is timed in a format computes the same as in PyTorch."""
    candidates = load_tool('deploy/candidates.py')
    found = candidates.make_candidates(
        CROPR, ['torch-export'], (96, 96), 1, 'encoder', tmp_path)
    image = np.random.RandomState(0).rand(1, 3, 96, 96).astype(np.float32)
    runs = {(c.kind, c.entry): c.run(image)[0] for c in found}
    for kind, entry in runs:
        np.testing.assert_allclose(
            runs[kind, entry], runs['pytorch', entry], atol=1e-4)
    assert len(runs) == 6


@pytest.mark.parametrize('args, text', [
    ([], 'give files, or a --config'),
    (['a.onnx', '--config', CROPR, '--shape', 9, 9], 'give files, or'),
    (['--config', CROPR], '--shape H W goes with --config'),
    (['a.onnx', '--shape', 9, 9], '--shape H W goes with --config'),
    (['a.onnx', '--part', 'whole'], '--part goes with --config'),
    (['a.onnx', '--formats', 'onnx'], '--formats goes with --config'),
    (['--config', CROPR, '--shape', 0, 9], '--shape must be positive'),
    (['--config', NONE, '--shape', 96, 96, '--formats', 'torch-export'],
     'has no reducer'),
])
def test_refusals(monkeypatch, capsys, args, text):
    with pytest.raises(SystemExit):
        run(monkeypatch, *args)
    assert text in capsys.readouterr().err


def test_a_whole_detector(tmp_path, monkeypatch, capsys):
    config = ROOT / 'configs/cropr/cropr-keep72-24_mask-rcnn_digits-eva_' \
        '1xb16-6e_digits-scenes-96x96.py'
    assert Path(config).is_file() and Config.fromfile(config)
    with pytest.raises(SystemExit):
        run(monkeypatch, '--config', config, '--shape', 96, 96, '--formats',
            'torch-export', '--part', 'whole')
    assert 'give --part encoder' in capsys.readouterr().err
