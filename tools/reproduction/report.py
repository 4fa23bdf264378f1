# Copyright (c) mmcropr contributors.
"""A reproduced table as Markdown, for people, and as JSON."""
from typing import Any, Dict, List, Optional, Sequence

from .rows import CROPR, Row, Table
from .statistics import Interval, by_seed, kendall, paired, spread

FOREGROUND = 'kept_foreground/'


def collect(table: Table, rows: Sequence[Row], results: List[dict],
            failures: Dict[str, str]) -> List[Dict[str, Any]]:
    """A line per row: ours, published, compared with Cropr, what was kept.

    Args:
        table: Of the rows.
        rows: Its rows.
        results: Of all runs that have ended.
        failures: Why others failed, by the name of their row and seed.
    """
    cropr = by_seed(results, CROPR, table.metric)
    lines = []
    for row in rows:
        seeds = by_seed(results, row.name, table.metric)
        mine = [r for r in results if r['row'] == row.name]
        line: Dict[str, Any] = dict(
            row=row.name, published=row.published,
            config=mine[0]['config'] if mine else None,
            seconds=sum(r['seconds'] for r in mine),
            failures={name: why for name, why in failures.items()
                      if name.startswith(f'{row.name}, seed ')})
        if seeds:
            seeds = {s: table.scale * v for s, v in seeds.items()}
            line['seeds'] = seeds
            line['median'], line['low'], line['high'] = spread(
                list(seeds.values()))
            common = set(seeds) & set(cropr)
            if common and row.name != CROPR:
                line['cropr_minus_row'] = paired(
                    {s: table.scale * v for s, v in cropr.items()},
                    seeds)._asdict()
        for key in ('survive', 'precision', 'chance'):
            kept = by_seed(results, row.name, FOREGROUND + key)
            if kept:
                line[key] = spread(list(kept.values()))[0]
        lines.append(line)
    return lines


def tau_of(table: Table, rows: Sequence[Row],
           lines: List[Dict[str, Any]]) -> Optional[Interval]:
    """Kendall's tau with the published figures."""
    ours = {line['row']: line['seeds'] for line in lines if 'seeds' in line}
    published = {row.name: row.published for row in rows
                 if row.published is not None}
    return kendall(ours, published)


def _number(value: Optional[float]) -> str:
    return '' if value is None else f'{value:.1f}'


def _interval(gap: Optional[Dict[str, Any]]) -> str:
    if gap is None:
        return ''
    text = f'{gap["value"]:+.1f}'
    if gap['low'] is not None:
        text += f' ({gap["low"]:+.1f} to {gap["high"]:+.1f})'
    return text


def markdown(title: str, lines: List[Dict[str, Any]],
             tau: Optional[Interval], facts: Dict[str, Any]) -> str:
    """The table and what it rests on.

    Args:
        title: Of the table.
        lines: Of :func:`collect`.
        tau: Of :func:`tau_of`.
        facts: Commit, scale, command and the like.
    """
    text = [f'# {title}', '',
            '| row | ours: median (range) | published | Cropr - row (95 %) | '
            'foreground that survives | precision of kept tokens | min |',
            '| --- | --- | --- | --- | --- | --- | --- |']
    for line in lines:
        ours = 'failed' if line['failures'] else 'not run'
        if 'median' in line:
            ours = _number(line['median'])
            if len(line['seeds']) > 1:
                ours += f' ({line["low"]:.1f} to {line["high"]:.1f})'
        cells = [line['row'], ours, _number(line['published']),
                 _interval(line.get('cropr_minus_row')),
                 _number(line.get('survive')), _number(line.get('precision')),
                 f'{line["seconds"] / 60:.0f}']
        text.append(f'| {" | ".join(cells)} |')
    text.append('')
    if tau is not None:
        part = '' if tau.low is None else (
            f', 95 % interval {tau.low:.2f} to {tau.high:.2f}')
        text += [f"Kendall's tau with the published column: {tau.value:.2f}"
                 f'{part}.', '']
    chance = [line['chance'] for line in lines if 'chance' in line]
    if chance:
        text += [f'Foreground is {chance[0]:.1f} % of all patches: a '
                 'selection by chance has that precision.', '']
    text += [f'- {key}: {value}' for key, value in facts.items()]
    for line in lines:
        text += [f'- failed: {name}: {why}'
                 for name, why in line['failures'].items()]
    return '\n'.join(text) + '\n'


def curve_points(table: Table, rows: Sequence[Row],
                 lines: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """What a curve draws: ``method``, ``share`` that was pruned in percent,
    ``median``, ``low`` and ``high``. The row without pruning begins every
    method's."""
    by_name = {line['row']: line for line in lines if 'median' in line}
    none, = (row for row in rows if row.method is None)
    methods = dict.fromkeys(row.method for row in rows if row.method)
    points = []
    for method in methods:
        for row in (none, *(r for r in rows if r.method == method)):
            line = by_name.get(row.name)
            if line:
                points.append(dict(
                    method=method, share=100 * (row.share or 0.),
                    **{k: line[k] for k in ('median', 'low', 'high')}))
    return points
