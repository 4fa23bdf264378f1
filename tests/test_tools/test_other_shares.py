# Copyright (c) mmcropr contributors.
"""``--tpr`` of benchmark.py and get_flops.py."""
import json
import sys

import pytest

from tests.utils import ROOT, load_tool

flops = load_tool('analysis_tools/get_flops.py')
benchmark = load_tool('analysis_tools/benchmark.py')
entries = sys.modules['entries']
DIGITS = 'digits-eva_linear_1xb32-15e_digits-scenes-96x96.py'
CROPR = str(ROOT / f'configs/cropr/cropr-r30_{DIGITS}')
NONE = str(ROOT / f'configs/no_pruning/{DIGITS}')
SIT = str(ROOT / 'configs/sit/sit-tpr78_digits-eva_linear_1xb32-4e_'
          'digits-scenes-96x96.py')


def test_benchmark_at_other_shares(monkeypatch, capsys):
    """A row each, by the modules of the config; no pruning is there once."""
    found = entries.make_entries(
        entries.load_configs([CROPR, NONE], [0.25, 0.5]), False)
    rows = {entry.name: entry for entry in found}
    names = [f'{CROPR} --tpr {share}' for share in ('0.25', '0.5')]
    assert set(rows) == {
        f'no pruning ({names[0]})', *names,
        *(f'ideal slicing ({name})' for name in names)}
    assert {rows[name].none for name in names} == {f'no pruning ({names[0]})'}
    lengths = [entries.backbone_of(rows[name].module).lengths()
               for name in names]
    assert lengths == [[136, 128, 120, 112], [128, 112, 96, 72]]
    with pytest.raises(ValueError, match='sit-tpr78.*SiT are for the len'):
        entries.load_configs([SIT], [0.5])
    for words, message in (
            (['--train'], '--tpr goes not with --train'),
            (['--table', 'cls'], '--tpr goes not with --table')):
        config = [] if '--table' in words else [CROPR]
        monkeypatch.setattr(sys, 'argv', [
            'benchmark.py', *config, '--shape', '96', '96', '--device', 'cpu',
            '--tpr', '0.5', *words])
        with pytest.raises(SystemExit):
            benchmark.main()
        assert message in capsys.readouterr().err


def test_benchmark_of_a_share_of_nothing(monkeypatch, capsys, tmp_path):
    """To the end, from the command line; what it leaves is no slice."""
    out = tmp_path / 'b.json'
    monkeypatch.setattr(sys, 'argv', [
        'benchmark.py', NONE, CROPR, '--shape', '96', '96', '--device', 'cpu',
        '--rounds', '1', '--warmup', '1', '--json', str(out), '--tpr', '0'])
    benchmark.main()
    found = json.loads(out.read_text())['results']
    assert [row['name'] for row in found] == [NONE, f'{CROPR} --tpr 0']
    assert found[1]['ratio_to_ideal_slicing'] == found[1][
        'ratio_to_no_pruning'] > 0
    assert '--tpr 0' in capsys.readouterr().out
    (tmp_path / 'none.py').write_text('a = 1')
    with pytest.raises(ValueError, match='none.py: the config has no model'):
        entries.load_configs([str(tmp_path / 'none.py')])


@pytest.mark.parametrize('train', [[], ['--train']])
def test_counts_at_another_share(train, tmp_path, monkeypatch, capsys):
    found = []
    for words in ([], ['--tpr', '0.5']):
        monkeypatch.setattr(sys, 'argv', [
            'get_flops.py', CROPR, *words, *train, '--json',
            str(tmp_path / 'a.json')])
        flops.main()
        found.append(json.loads((tmp_path / 'a.json').read_text()))
    assert [one['tpr'] for one in found] == [None, 0.5]
    if train:
        assert found[1]['flops'] > found[0]['flops']
    else:
        assert found[1]['tokens_per_block'] == [145, 128, 112, 96, 72, 145]
    out = capsys.readouterr().out
    assert f'{CROPR} --tpr 0.5 at 96 x 96 px' in out
    assert '0.0 G' not in out and '0.1 G' not in out, 'more digits'


@pytest.mark.parametrize('words, message', [
    ([CROPR, '--share', '0.5'], '--share goes with --train'),
    ([SIT, '--tpr', '0.5'], 'SiT are for the lengths'),
    ([NONE, '--tpr', '0.5'], 'this one has none')])
def test_counts_that_cannot_be(words, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['get_flops.py', *words])
    with pytest.raises(SystemExit):
        flops.main()
    assert message in capsys.readouterr().err
