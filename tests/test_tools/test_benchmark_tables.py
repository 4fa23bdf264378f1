# Copyright (c) mmcropr contributors.
"""``benchmark.py --table``."""
import json
import shutil
import sys
from importlib import import_module

import pytest
import torch

from mmcropr.models.reducers.base import TokenReducer
from mmcropr.registry import MODELS
from tests.utils import ROOT, load_tool

benchmark = load_tool('analysis_tools/benchmark.py')
plots, sweeps, tables, timing = (
    import_module(name) for name in ('plots', 'sweeps', 'tables', 'timing'))
DIGITS = 'digits-eva_linear_1xb32-15e_digits-scenes-96x96.py'
TABLE = tables.Table(
    'Digits', (tables.Row('No pruning', f'no_pruning/{DIGITS}', 10.),
               tables.Row('Cropr', f'cropr/cropr-r30_{DIGITS}', 25.),
               tables.Row('Others', f'cropr/cropr-keep72-24_{DIGITS}')),
    (96, 96), (64, 64), 3)  # yapf: disable


def run(monkeypatch, *options):
    monkeypatch.setattr(sys, 'argv', [
        'benchmark.py', '--device', 'cpu', '--rounds', '2', '--warmup', '1',
        *options])
    benchmark.main()


@pytest.mark.parametrize('name', tables.TABLES)
def test_rows_of_a_table_are_configs_of_one_model(name):
    table = tables.TABLES[name]
    assert len({row.name for row in table.rows}) == len(table.rows)
    assert table.rows[0].config.startswith('no_pruning/')
    ends = {row.config.rsplit('_8xb', 1)[-1] for row in table.rows}
    assert len({end.rsplit('_1xb', 1)[-1] for end in ends}) == 1
    for row in table.rows:
        cfg = tables.load(row, small=True)
        model = cfg.model.get('detector', cfg.model)
        assert model.backbone.arch.embed_dim == 192
        assert ('reducer' in model.backbone) == (row is not table.rows[0])


def test_every_reducer_has_a_row():
    kinds = {row.reducer['type'].split('.')[1]
             for row in tables.TABLES['reducers'].rows[1:]}
    known = {name for name, kind in MODELS.module_dict.items()
             if issubclass(kind, TokenReducer)
             and kind.__module__.startswith('mmcropr.')}
    assert kinds == known


def test_a_table(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(benchmark.TABLES, 'cls', TABLE)
    run(monkeypatch, '--table', 'cls', '--modes', 'eager', '--out',
        str(tmp_path))
    found = json.loads((tmp_path / 'cls.json').read_text())
    assert found['settings']['batch'] == 3
    assert found['settings']['shape'] == [96, 96]
    result, = found['results']
    assert [row['name'] for row in result['rows']] == [
        'No pruning', 'Cropr', 'Others']
    assert [row['published_ratio'] for row in result['rows']] == [
        1.0, 2.5, None]
    none, cropr, _ = result['rows']
    assert none['ratio_to_no_pruning'] == 1.0
    assert cropr['ratio_to_no_pruning'] > 0
    text = (tmp_path / 'cls.md').read_text()
    assert text in capsys.readouterr().out
    assert f'| Cropr | {cropr["images_per_second"]:.1f} | ' in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ['cls.json', 'cls.md']


def test_small_detectors_and_segmentors_run(monkeypatch, capsys):
    """Narrow ViTs with the heads of the wide ones."""
    for name in ('det', 'seg'):
        table = tables.TABLES[name]
        monkeypatch.setitem(
            benchmark.TABLES, name, table._replace(
                rows=table.rows[:1] + table.rows[-1:], small_shape=(64, 64)))
        run(monkeypatch, '--table', name, '--small', '--modes', 'eager',
            '--rounds', '1')
        assert '64 x 64 px' in capsys.readouterr().out


def test_noise_is_said():
    def row(low, high, ratio=None):
        return dict(images_per_second=10., spread=[low, high],
                    ratio_to_no_pruning=ratio)

    assert timing.noise([row(9.5, 10.5), row(1., 30., 2.)]) is None
    assert 'over 40% of its median' in timing.noise([row(8., 12.)])


@pytest.mark.parametrize('error', [
    torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 3'),
    RuntimeError('not enough memory: you tried to allocate 3 bytes')])
def test_batch_is_halved_to_what_memory_holds(error):
    def attempt(batch):
        if batch > most:
            raise error
        return 'rows'

    most = 3
    assert sweeps.with_decay(attempt, 32) == ('rows', 2)
    most = 0
    with pytest.raises(ValueError, match='one image .* allocate 3'):
        sweeps.with_decay(attempt, 32)


def test_other_errors_are_no_lack_of_memory():
    def attempt(batch):
        raise RuntimeError('shapes differ')

    with pytest.raises(RuntimeError, match='shapes differ'):
        sweeps.with_decay(attempt, 2)


def test_weights_that_do_not_fit():
    with pytest.raises(ValueError, match='more memory .* --small. no room'):
        with timing.building_on(torch.device('cpu')):
            raise torch.cuda.OutOfMemoryError('no room')
    with timing.building_on(torch.device('meta')):
        assert torch.nn.Linear(1, 1).weight.is_meta


def test_rows_of_a_table(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(benchmark.TABLES, 'cls', TABLE)
    run(monkeypatch, '--table', 'cls', '--modes', 'eager', '--rows', 'Others',
        '--out', str(tmp_path))
    result, = json.loads((tmp_path / 'cls.json').read_text())['results']
    assert [row['name'] for row in result['rows']] == ['No pruning', 'Others']
    with pytest.raises(SystemExit):
        run(monkeypatch, '--table', 'cls', '--rows', 'Corpr')
    assert "no row 'Corpr'; it has: 'No pruning', 'Cropr', 'Others'" in (
        capsys.readouterr().err)


def test_length(monkeypatch, tmp_path):
    monkeypatch.setattr(sweeps, 'LENGTHS', (7, 8, 9, 20, 21))
    monkeypatch.setattr(sweeps, 'LENGTH_BLOCKS', 1)
    run(monkeypatch, '--table', 'length', '--small', '--out', str(tmp_path))
    points = json.loads((tmp_path / 'length.json').read_text())['results']
    assert [p['length'] for p in points] == [7, 8, 9, 20, 21]
    assert all(p['tokens_per_second'] > 0 for p in points)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f'length{end}' for end in ('.json', '.md', '.png', '.svg')]


def test_size(monkeypatch, tmp_path):
    monkeypatch.setattr(sweeps, 'SIZES', {
        'ViT-B/16': (sweeps.SIZES['ViT-B/16'][0], (32, 64))})
    run(monkeypatch, '--table', 'size', '--small', '--out', str(tmp_path))
    points = json.loads((tmp_path / 'size.json').read_text())['results']
    assert [(p['size'], p['mode']) for p in points] == [
        (size, mode.name) for size in (32, 64)
        for mode in sweeps.modes(torch.device('cpu'))]
    assert all(p['ratio'] > 0 and p['batch'] == 2 for p in points)
    assert (tmp_path / 'size.svg').read_text().count('ViT-B/16') == 1


def test_fused_attention_can_be_switched_off():
    from mmcropr.models import CroprViT
    from tests.utils import TINY
    model = CroprViT(TINY, img_size=32)
    sweeps.set_fused(model, False)
    assert {b.attn.fused_attn for b in model.vit.blocks} == {False}


def test_plots_repeat(tmp_path):
    points = [dict(length=n, tokens_per_second=1. * n) for n in (7, 8, 9)]
    first, second = (plots.plot_lengths(points, tmp_path / name)[1]
                     for name in ('a', 'b'))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize('options, message', [
    (['--table', 'none'], 'invalid choice'),
    (['--table', 'cls', str(ROOT / f'configs/cropr/cropr-r30_{DIGITS}')],
     'give configs, or a --table'),
    ([], 'give configs, or a --table'),
    (['x.py'], '--shape H W is needed'),
    (['x.py', '--shape', '8', '8', '--small'], '--small goes with --table'),
    (['x.py', '--shape', '8', '8', '--rows', 'a'], '--rows goes with --table'),
    (['--table', 'length', '--rows', '496'], '--rows goes not with --table'),
    (['--table', 'cls', '--modes', 'graph'], 'graph is of inference, and'),
    (['--table', 'cls', '--train'], '--train goes not with --table'),
])
def test_bad_options(options, message, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, *options)
    assert message in capsys.readouterr().err


def test_compiled_without_a_compiler(monkeypatch):
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    with pytest.raises(ValueError, match=r'needs a C\+\+ compiler'):
        timing.check_compiler(torch.device('cpu'))


@pytest.mark.parametrize('number', [10])
def test_all_models_of_a_class_are_compiled(number):
    """Not the first eight alone."""
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    class Model(torch.nn.Module):

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.rand(3))
            self.number = len(models)

        def forward(self, x):
            return x * self.weight + self.number

    timing.compile_all(number)
    models = []
    for _ in range(number):
        models.append(torch.compile(Model(), backend=backend))
    for model in models:
        model(torch.rand(3))
    assert len(compiled) == number
    torch._dynamo.reset()
