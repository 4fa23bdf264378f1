# Copyright (c) mmcropr contributors.
"""Accuracy of trained models at other shares of pruned patches."""
import json
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from tests.utils import ROOT, load_tool

tool = load_tool('analysis_tools/evaluate_rates.py')
CONFIG = ROOT / ('configs/cropr/cropr-tpr78_digits-eva_linear_1xb32-4e_'
                 'digits-scenes-96x96.py')


@pytest.fixture(scope='module')
def models(digits, tmp_path_factory):
    """Config and checkpoint of Cropr, and of Random."""
    folder, found = tmp_path_factory.mktemp('models'), {}
    init_default_scope('mmseg')
    for name in ('Cropr', 'Random'):
        cfg = Config.fromfile(CONFIG)
        cfg.test_dataloader.dataset.data_root = str(digits)
        if name == 'Random':
            cfg.model.backbone.reducer = dict(type='mmcropr.Random', tpr=.5)
            del cfg.model.auxiliary_head
        torch.manual_seed(0)
        state = MODELS.build(cfg.model).state_dict()
        torch.save(dict(state_dict=state), folder / f'{name}.pth')
        cfg.dump(folder / f'{name}.py')
        found[name] = [str(folder / f'{name}.py'), str(folder / f'{name}.pth')]
    return found


def test_table_and_curve(models, tmp_path, capsys):
    out = tmp_path / 'out'
    tool.main([*models['Cropr'], '--name', 'ours', '--also', 'Random',
               *models['Random'], '--out', str(out), '--tpr', '.9', '0',
               '.999', '.9', '.501'])
    said = capsys.readouterr().out
    found = json.loads((out / 'rates.json').read_text())
    lines = [(p['method'], p['tokens'], round(p['share'], 1), p['trained'])
             for p in found['points']]
    assert lines == [
        ('ours', 145, 0., False), ('ours', 72, 50.7, False),
        ('ours', 32, 78.5, True),
        ('ours', 16, 89.6, False), ('Random', 145, 0., False),
        ('Random', 72, 50.7, True), ('Random', 16, 89.6, False)]
    ratios = [p['ratio'] for p in found['points']]
    assert ratios[0] == ratios[4] == 1 and 1 < ratios[5] < ratios[6]
    assert found['metric'] == 'mIoU'
    assert [why.split(':')[0] for why in found['left_out']] == [
        'ours, 99.9 %', 'Random, 50.1 %', 'Random, 99.9 %']
    assert 'the same tokens as another row: ' in found['left_out'][1]
    assert '| ours | **78.5 %** | 32 |' in said
    assert said.rstrip().endswith((out / 'rates.md').read_text().rstrip())
    assert sorted(p.name for p in out.iterdir()) == [
        'rates.json', 'rates.md', 'rates.png', 'rates.svg']


def test_it_is_what_the_test_tool_says(models, tmp_path):
    """Of Cropr, whose scores are the same in every run."""
    tool.main([*models['Cropr'], '--out', str(tmp_path / 'out'), '--tpr',
               '.5'])
    points = json.loads((tmp_path / 'out/rates.json').read_text())['points']
    assert points[0]['metrics'] != points[1]['metrics']
    test = load_tool('test.py')
    for point, share in zip(points, ('.5', None)):
        argv = ['test.py', *models['Cropr'], '--work-dir',
                str(tmp_path / f'test{share}')]
        argv += ['--tpr', share] if share else []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, 'argv', argv)
            test.main()
        log, = (tmp_path / f'test{share}').glob('*/*.json')
        wanted = json.loads(log.read_text().splitlines()[-1])
        assert point['metrics']['mAcc'] == pytest.approx(wanted['mAcc'])
        assert point['metrics']['aAcc'] == pytest.approx(wanted['aAcc'])


def test_a_ring_where_the_model_was_trained(monkeypatch, tmp_path):
    plots = sys.modules['plots']
    drawn = []
    monkeypatch.setattr(plots, '_save', lambda figure, stem: drawn.append(
        figure.axes[0]))
    points = [dict(method='a', share=share, median=share, low=share,
                   high=share, trained=share == 5) for share in (0, 5, 9)]
    plots.plot_shares(points, '', tmp_path / 'x', 'mIoU')
    _, rings = drawn[0].get_lines()
    assert rings.get_xydata().tolist() == [[5, 5]]
    assert rings.get_fillstyle() == 'none'
    assert drawn[0].get_ylabel() == 'mIoU'


def test_out_is_a_file(models, tmp_path, capsys):
    (tmp_path / 'out').write_text('mine')
    with pytest.raises(SystemExit):
        tool.main([*models['Cropr'], '--out', str(tmp_path / 'out')])
    assert 'is no folder' in capsys.readouterr().err
    assert (tmp_path / 'out').read_text() == 'mine'


def test_a_checkpoint_of_another_model(models, tmp_path, capsys):
    torch.save(dict(state_dict={'a': torch.zeros(1)}), tmp_path / 'x.pth')
    with pytest.raises(SystemExit):
        tool.main([models['Cropr'][0], str(tmp_path / 'x.pth'), '--out',
                   str(tmp_path / 'out')])
    assert 'error: ' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('words, message', [
    (['--cfg-options', 'test_dataloader=None'], 'no test_dataloader'),
    (['--also', 'other', str(CONFIG), 'no.pth'], 'other: no checkpoint'),
    (['--tpr', '1'], 'from 0 to below 1, got 1'),
    (['--also', 'a', 'x.py', 'x.pth', '--name', 'a'], 'name of its own'),
    (['--also', 'a', str(CONFIG), 'no.pth'], 'no checkpoint at no.pth'),
    (['--metric', 'top1'], 'no top1; choose one by --metric: aAcc, mAcc'),
    (['--cfg-options', 'model.backbone.reducer=None'], 'this one has none'),
    (['--cfg-options', 'test_dataloader.dataset.data_root=no/such'],
     'no/such'),
])
def test_bad_input(words, message, models, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        tool.main([*models['Cropr'], '--out', str(tmp_path / 'out'), *words])
    assert stop.value.code in (1, 2)
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert 'error: ' in said and message in said
    assert not (tmp_path / 'out').exists()
