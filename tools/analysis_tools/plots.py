# Copyright (c) mmcropr contributors.
"""Pictures of measured curves, as PNG and SVG."""
from pathlib import Path
from typing import Any, Dict, List

import matplotlib
from matplotlib.figure import Figure

from mmcropr.utils.files import written_whole

# Apart for the colour-blind, too (Okabe and Ito), and by their marks
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
MARKS = ('o', 's', '^', 'v', 'D', 'P')


def plot_sizes(points: List[Dict[str, Any]], stem: Path) -> List[Path]:
    """Speed-up by Cropr against image size, a panel per ViT and a line per
    mode.

    Args:
        points: Of ``sweeps.measure_sizes``.
        stem: Path of the files, without their ending.
    """
    vits = list(dict.fromkeys(point['vit'] for point in points))
    modes = list(dict.fromkeys(point['mode'] for point in points))
    figure = Figure(figsize=(3.4 * len(vits), 3), layout='constrained')
    panels = figure.subplots(1, len(vits), sharey=True, squeeze=False)[0]
    for panel, vit in zip(panels, vits):
        for mode, colour, mark in zip(modes, COLOURS, MARKS):
            line = [p for p in points if (p['vit'], p['mode']) == (vit, mode)]
            panel.plot([p['size'] for p in line], [p['ratio'] for p in line],
                       color=colour, marker=mark, label=mode)
        panel.axhline(1, color='0.6', linewidth=0.8)
        panel.set(title=vit, xlabel='image size / px')
    panels[0].set_ylabel('images per second / no pruning')
    panels[0].legend(frameon=False, fontsize='small')
    return _save(figure, stem)


def plot_lengths(points: List[Dict[str, Any]], stem: Path) -> List[Path]:
    """Throughput against sequence length, multiples of 8 marked.

    Args:
        points: Of ``sweeps.measure_lengths``.
        stem: Path of the files, without their ending.
    """
    runs: List[List[Dict[str, Any]]] = []
    for point in points:  # lengths that follow each other share a panel
        if not runs or point['length'] != runs[-1][-1]['length'] + 1:
            runs.append([])
        runs[-1].append(point)
    figure = Figure(figsize=(4.2 * len(runs), 3), layout='constrained')
    panels = figure.subplots(1, len(runs), squeeze=False)[0]
    for panel, run in zip(panels, runs):
        panel.plot([p['length'] for p in run],
                   [p['tokens_per_second'] for p in run], color=COLOURS[0])
        eights = [p for p in run if p['length'] % 8 == 0]
        panel.plot([p['length'] for p in eights],
                   [p['tokens_per_second'] for p in eights], MARKS[0],
                   color=COLOURS[1], label='multiples of 8')
        panel.set_xlabel('sequence length')
        panel.set_ylim(0, 1.05 * max(p['tokens_per_second'] for p in run))
    panels[0].set_ylabel('tokens per second')
    panels[0].legend(frameon=False, fontsize='small')
    return _save(figure, stem)


def plot_shares(points: List[Dict[str, Any]], title: str,
                stem: Path, metric: str = 'accuracy / %') -> List[Path]:
    """Accuracy against the share that is pruned, a line per method, with the
    range over seeds.

    Args:
        points: Of ``reproduction.report.curve_points``; those that are
            ``trained`` get a ring.
        title: Of the picture.
        stem: Path of the files, without their ending.
        metric: What is drawn.
    """
    figure = Figure(figsize=(5, 3.4), layout='constrained')
    panel = figure.subplots()
    methods = list(dict.fromkeys(point['method'] for point in points))
    for method, colour, mark in zip(methods, COLOURS, MARKS):
        line = [p for p in points if p['method'] == method]
        shares = [p['share'] for p in line]
        panel.plot(shares, [p['median'] for p in line], color=colour,
                   marker=mark, label=method)
        panel.fill_between(shares, [p['low'] for p in line],
                           [p['high'] for p in line], color=colour, alpha=.15)
        ringed = [p for p in line if p.get('trained')]
        panel.plot([p['share'] for p in ringed], [p['median'] for p in ringed],
                   'o', color=colour, markersize=12, fillstyle='none')
    panel.set(title=title, xlabel='patches pruned / %', ylabel=metric)
    panel.legend(frameon=False, fontsize='small')
    return _save(figure, stem)


def _save(figure: Figure, stem: Path) -> List[Path]:
    paths = [stem.with_suffix(end) for end in ('.png', '.svg')]
    # Without a date or random names the same numbers give the same file
    with matplotlib.rc_context({'svg.hashsalt': 'mmcropr'}):
        for path in paths:
            metadata = dict(Date=None) if path.suffix == '.svg' else None
            with written_whole(path) as part:
                figure.savefig(part, dpi=150, format=path.suffix[1:],
                               metadata=metadata)
    return paths
