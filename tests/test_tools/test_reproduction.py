# Copyright (c) mmcropr contributors.
"""Rows, settings and statistics of the reproduced tables."""
import re
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from scipy import stats

from mmcropr.models.checks import backbones_of, check_model
from tests.utils import ROOT, load_tool

reproduce = load_tool('reproduce.py')
rows = sys.modules['reproduction.rows']
settings = sys.modules['reproduction.settings']
statistics = sys.modules['reproduction.statistics']
report = sys.modules['reproduction.report']
ALL = [(name, row.name) for name, table in rows.TABLES.items()
       for row in table.rows]


def config_of(table, row, scale='tiny', share=None):
    table = rows.TABLES[table]
    row, = (r for r in table.rows if r.name == row)
    cfg = settings.base_config(
        settings.TASKS[table.task].fine_tuning, settings.SCALES[scale],
        Path('/data'), Path('/start.pth'))
    return settings.row_config(row._replace(share=share), table, cfg, 2)


@pytest.mark.parametrize('table, row', ALL)
def test_every_row_is_a_model(table, row):
    """Written to a file and read again, it can be built, and its parts fit
    together."""
    cfg = Config.fromstring(config_of(table, row).pretty_text, '.py')
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    check_model(model)
    backbone, = backbones_of(model)
    method = next(r for r in rows.TABLES[table].rows if r.name == row).method
    kinds = {type(reducer).__name__ for reducer in backbone.reducers}
    assert kinds == ({method} if method else set())
    assert cfg.randomness.seed == 2
    text = cfg.pretty_text
    assert '/data/digits_photos' in text and "'data/" not in text
    assert '/start.pth' in text


def test_shares_and_schedules():
    def lengths(*args, **kwargs):
        cfg = config_of(*args, **kwargs)
        init_default_scope(cfg.default_scope)
        backbone, = backbones_of(MODELS.build(cfg.model))
        return backbone.schedule.modules, backbone.schedule.lengths()

    assert lengths('seg', 'Cropr') == ((3, ), [88])
    assert lengths('seg', 'Random', share=.5)[1][-1] == 576 // 2
    for share in (.5, .75):  # half at most, and the class token is no half
        assert lengths('seg', 'ToMe', share=share)[1][-1] == 576 * (1 - share)
    # Not more than half at once
    kept = [577] + lengths('seg', 'ToMe', share=.9)[1]
    assert all(b >= a / 2 for a, b in zip(kept, kept[1:]))
    assert lengths('cls-right', 'SiT') == ((1, 2, 3), [400, 280, 192])
    assert lengths('cls', 'Cropr, no LLF')[0] == (3, 4)
    assert lengths('cls', 'Cropr') == ((3, ), [64])
    assert lengths('cls', 'ToMe, no LLF')[0] == (1, 2, 3, 4)
    assert lengths('seg', 'ToMe')[0] == (1, 2, 3)


def test_one_query():
    """As in detection, and at other learning rates than those of patches."""
    cfg = config_of('seg', 'Cropr, one query')
    assert cfg.model.auxiliary_head.type == 'mmcropr.CroprMultiLabelHead'
    assert cfg.model.backbone.reducer.num_queries == 'image'
    rates = cfg.optim_wrapper.paramwise_cfg.custom_keys
    assert {name: rate.lr_mult for name, rate in rates.items()} == dict(
        queries=3, aggregators=3, fcs=3)
    rates = config_of('seg', 'Cropr').optim_wrapper.paramwise_cfg.custom_keys
    assert {name: rate.lr_mult for name, rate in rates.items()} == dict(
        queries=25)


@pytest.mark.parametrize('row', ['Cross-Attn', 'Cross-Attn + Concat'])
def test_rates_of_a_neck_with_queries(row):
    """Those of Cropr's queries are for them alone."""
    cfg = config_of('fusion', row)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    groups = {id(p): group['lr'] for group in wrapper.param_groups
              for p in group['params']}
    rates = {name: groups[id(p)] for name, p in model.named_parameters()}
    base = cfg.optim_wrapper.optimizer.lr
    assert rates['neck.queries'] == base
    assert rates['decode_head.conv_seg.weight'] == base
    assert rates['backbone.reducers.0.queries'] == pytest.approx(25 * base)


@pytest.mark.parametrize('table, row', [
    pair for pair in ALL if 'varied' in pair[1]])
def test_varied_rates(table, row):
    """The same training in all else."""
    cfg = config_of(table, row)
    hook, = (hook for hook in cfg.custom_hooks if 'Curriculum' in hook.type)
    assert hook.pop('vary_from') == 0
    plain = config_of(table, row.replace(', varied rates', ''))
    assert cfg.to_dict() == plain.to_dict()


@pytest.mark.parametrize('words, workers', [
    ((), 0), (('--workers', '3'), 3),
    (('--scale', 'small'), 4), (('--scale', 'small', '--workers', '0'), 0)])
def test_workers(words, workers):
    args = reproduce.parse_args(['--table', 'seg', *words])
    cfg = settings.base_config(settings.TASKS['seg'].fine_tuning,
                               reproduce.scale_of(args), Path('/data'))
    assert {loader.num_workers for loader in (
        cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader)
            } == {workers}


def test_scales():
    tiny = config_of('seg', 'Cropr')
    small = config_of('seg', 'Cropr', 'small')
    assert small.model.backbone.arch.depth == 12
    assert small.model.auxiliary_head.num_modules == 4
    assert small.model.decode_head.in_channels == 192
    assert small.optim_wrapper.dtype == 'bfloat16'
    assert 'num-train 6000' in small.data_command
    assert 'num-train 3000' in tiny.data_command
    assert small.train_dataloader.batch_size == (
        4 * tiny.train_dataloader.batch_size)


@pytest.mark.parametrize('task', settings.TASKS)
def test_length_of_scale_small(task):
    """Twice the scenes in a quarter of the batches: half of the steps."""
    def steps(name, scale):
        cfg = settings.base_config(name, settings.SCALES[scale], Path('/data'))
        scenes, = re.findall(r'--num-train (\d+)', cfg.data_command)
        batches = int(scenes) / cfg.train_dataloader.batch_size
        return batches * cfg.train_cfg.max_epochs

    setting = settings.TASKS[task]
    for name in (*setting.starts, setting.fine_tuning):
        assert steps(name, 'small') == steps(name, 'tiny') / 2
    assert sum(steps(name, 'small') for name in setting.starts) < 6500


def test_published_figures():
    """Those of the paper, and a row of ours beside each."""
    published = {(name, row.name): row.published
                 for name, table in rows.TABLES.items() for row in table.rows}
    assert published['cls', 'Cropr'] == 85.3
    assert published['cls-right', 'Sinkhorn'] == 56.5
    assert published['fusion', 'DToP'] == 50.1
    assert published['det', 'Variance'] == 62.0
    assert sum(len(t.rows) for t in rows.TABLES.values()) == len(ALL) == 54


def test_chosen_rows():
    assert [r.name for r in rows.choose('det', ('Cropr', 'Random'))] == [
        'Cropr', 'Random']
    with pytest.raises(ValueError, match="no row 'Croper'.*'Cropr'"):
        rows.choose('seg', ('Croper', ))
    curve = rows.curve_rows('seg', None)
    assert curve[0].name == 'No pruning' and len(curve) == 1 + 4 * 6
    assert {row.share for row in curve[1:]} == set(rows.CURVE) - {0}


def test_kendall():
    published = dict(a=1., b=2., c=3., d=4.)
    ours = {name: dict(enumerate(values)) for name, values in dict(
        a=[5., 6], b=[7., 8], c=[9., 10], d=[11., 12],
        other=[0., 0]).items()}
    assert statistics.kendall(ours, published) == (1, 1, 1)
    ours['a'] = {0: 9.5, 1: 6.}
    tau = statistics.kendall(ours, published)
    medians = [7.75, 7.5, 9.5, 11.5]
    assert tau.value == pytest.approx(
        stats.kendalltau(medians, [1, 2, 3, 4]).statistic)
    assert tau.low < tau.value <= tau.high == 1
    one = statistics.kendall({k: {0: v[0]} for k, v in ours.items()},
                             published)
    assert one.low is None
    assert statistics.kendall(dict(a={0: 1.}, b={0: 2.}), published) is None
    alike = {name: {0: 1.} for name in published}
    assert statistics.kendall(alike, published) is None, 'no number'


def test_kendall_with_a_seed_that_failed():
    """Seeds are compared with themselves, whatever is missing."""
    published = dict(a=1., b=2., c=3.)
    ours = dict(a={0: 9., 1: 1., 2: 1.}, b={0: 5., 1: 2., 2: 2.}, c={1: 3.})
    assert statistics.kendall(ours, published) == (1, None, None)
    ours['c'] = {4: 3.}
    assert statistics.kendall(ours, published) is None


def test_paired():
    gap = statistics.paired({0: 3., 1: 5., 2: 4.}, {0: 1., 1: 2., 2: 3., 3: 9})
    test = stats.ttest_rel([3, 5, 4], [1, 2, 3]).confidence_interval()
    assert gap == pytest.approx((2, test.low, test.high))
    assert statistics.paired({0: 3.}, {0: 1.}) == (2, None, None)


def results():
    found = []
    for seed in range(2):
        for number, row in enumerate(('No pruning', 'Random', 'Variance',
                                      'Attn Top-K', 'Cropr')):
            metrics = {'coco/bbox_mAP': .5 + .01 * number + .001 * seed}
            if row != 'No pruning':
                metrics.update({'kept_foreground/precision': 20. + number,
                                'kept_foreground/survive': 40.,
                                'kept_foreground/chance': 11.})
            found.append(dict(row=row, seed=seed, metrics=metrics,
                              seconds=60., config='x/config.py'))
    return found


def test_report():
    table = rows.TABLES['det']
    failures = {'Random, seed 2': 'no space'}
    lines = report.collect(table, table.rows, results(), failures)
    tau = report.tau_of(table, table.rows, lines)
    text = report.markdown('T', lines, tau, dict(commit='abc'))
    assert '| Cropr | 54.0 (54.0 to 54.1) | 63.0 |' in text.replace(
        '54.05', '54.0')
    assert '| Random | 51.0 (51.0 to 51.1) | 60.6 | +3.0' in text
    assert 'failed: Random, seed 2: no space' in text
    assert 'commit: abc' in text and "Kendall's tau" in text
    assert '11.0 % of all patches' in text


def test_report_without_results():
    table = rows.TABLES['seg']
    lines = report.collect(table, table.rows, [], {})
    text = report.markdown('T', lines, report.tau_of(table, table.rows, lines),
                           {})
    assert text.count('not run') == len(table.rows)


def test_points_of_a_curve():
    table, curve = rows.TABLES['seg'], rows.curve_rows('seg', ('Cropr', ))
    found = [dict(row=row.name, seed=0, metrics=dict(mIoU=60. - k),
                  seconds=1., config='') for k, row in enumerate(curve)]
    lines = report.collect(table, curve, found, {})
    points = report.curve_points(table, curve, lines)
    assert [p['share'] for p in points] == [0, 50, 70, 80, 90, 95, 97]
    assert points[0]['median'] == 60 and {p['method'] for p in points} == {
        'Cropr'}


def test_curve_is_drawn(tmp_path):
    plots = load_tool('analysis_tools/plots.py')
    points = [dict(method=m, share=s, median=50. - s / 5, low=40., high=60.)
              for m in ('Cropr', 'Random') for s in (0, 50)]
    for path in plots.plot_shares(points, 'T', tmp_path / 'curve'):
        assert path.stat().st_size > 1000


@pytest.mark.parametrize('words, message', [
    (['--table', 'segm'], "invalid choice: 'segm'"),
    (['--table', 'seg', '--scale', 'huge'], "invalid choice: 'huge'"),
    (['--table', 'seg', '--rows', 'Nobody'], "no row 'Nobody'"),
    (['--table', 'seg', '--seeds', '0'], '--seeds must be 1 or more'),
    (['--table', 'seg', '--start', 'no.pth'], 'no checkpoint at no.pth'),
    ([], '--table'),
])
def test_bad_arguments(words, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        reproduce.main([*words, '--out', str(tmp_path)])
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert message in said and said.startswith('error: ')
    assert said.count('\n') == 1 and not list(tmp_path.iterdir())


def test_folder_of_another_commit(tmp_path):
    facts = dict(commit='a', scale='tiny')
    # As an attempt left it that ended before its first run
    reproduce.check_folder(tmp_path, dict(commit='0', scale='small'), False)
    reproduce.check_folder(tmp_path, facts, False)
    (tmp_path / 'random-seed0').mkdir()
    reproduce.check_folder(tmp_path, facts, False)
    with pytest.raises(ValueError, match='commit a .now b.*--other-commit'):
        reproduce.check_folder(tmp_path, dict(facts, commit='b'), False)
    reproduce.check_folder(tmp_path, dict(facts, commit='b'), True)
    reproduce.check_folder(tmp_path, dict(facts, commit='b'), False)


def test_configs_of_all_starts_are_there():
    for task in settings.TASKS.values():
        for name in (*task.starts, *task.last_starts, task.fine_tuning):
            assert (ROOT / 'configs/no_pruning' / name).exists()


def test_starts_by_what_rows_pool(tmp_path, monkeypatch):
    """Rows that read out the class token begin with a model that has trained
    it; what the two starts share is trained once."""
    order = []

    def train(args, folder, name, before):
        order.append((name, before))
        return Path(name)

    monkeypatch.setattr(reproduce, 'train_start', train)
    args = reproduce.parse_args(['--table', 'cls', '--data', str(tmp_path)])
    chosen = rows.TABLES['cls'].rows
    starts = reproduce.make_starts(args, tmp_path / 'start', chosen)
    task = settings.TASKS['cls']
    assert sorted(starts) == ['avg', 'cls']
    assert [name for name, _ in order] == [*task.starts, task.by_pool['cls']]
    assert order[-1][1] == order[-2][1] == Path(task.starts[-2])
    jobs = {job.name: job.make().pretty_text for job in reproduce.make_jobs(
        args, tmp_path, chosen, starts, 1)}
    for row in chosen:
        text = jobs[f'{row.name}, seed 0']
        assert (task.by_pool['cls'] in text) == (row.pool == 'cls')
        assert (f"'{task.starts[-1]}'" in text) == (row.pool == 'avg')
    for name in task.last_starts:
        assert reproduce.metric_of(name) == 'accuracy/top1'
        cfg = Config.fromfile(ROOT / 'configs/no_pruning' / name)
        assert cfg.model.neck.pool == next(
            pool for pool in starts if task.starts_of(pool)[-1] == name)
    assert reproduce.metric_of(task.starts[-2]) == 'mIoU'
