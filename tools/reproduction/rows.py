# Copyright (c) mmcropr contributors.
"""Rows of the published tables, and what each changes in a config without
pruning."""
from typing import Any, Dict, NamedTuple, Optional, Tuple

NO_PRUNING, CROPR = 'No pruning', 'Cropr'


class Row(NamedTuple):
    """A line of a table.

    Args:
        name: Of the row.
        method: Reducer's name in ``mmcropr``; None without pruning.
        published: Its accuracy in the paper, in percent, where there is one.
        constant: Whether tokens leave at three blocks only.
        fuses: Whether Last Layer Fusion puts them back.
        pool: What classifiers pool.
        reducer: Further arguments of the reducer.
        head: Further arguments of the auxiliary head.
        neck: Another neck than that of the table; ``type`` and arguments.
        share: Of the patches that leaves; None for that of the table.
        queries: Of a Cropr module; None for those of the task.
        vary_from: Part of the full rate from which on each iteration draws
            its own; None for the full rate.
    """
    name: str
    method: Optional[str]
    published: Optional[float] = None
    constant: bool = False
    fuses: bool = True
    pool: str = 'avg'
    reducer: Dict[str, Any] = {}
    head: Dict[str, Any] = {}
    neck: Optional[Dict[str, Any]] = None
    share: Optional[float] = None
    queries: Optional[str] = None
    vary_from: Optional[float] = None


class Table(NamedTuple):
    """A table.

    Args:
        title: Of the table.
        task: ``seg``, ``cls`` or ``det``.
        metric: Its name in the log.
        scale: What makes percent of it.
        share: Of the patches that leave.
        rows: Its lines.
    """
    title: str
    task: str
    metric: str
    scale: float
    share: float
    rows: Tuple[Row, ...]


def _cls() -> Tuple[Row, ...]:
    plain, cls = dict(fuses=False), dict(fuses=False, pool='cls')
    return (
        Row(NO_PRUNING, None, 85.8),
        Row('Non-salient', 'NonSalient', 76.4),
        Row('Random', 'Random', 83.8),
        Row('Variance', 'Variance', 84.3),
        Row('Attn Top-K', 'AttnTopK', 84.7, pool='cls'),
        Row(CROPR, 'Cropr', 85.3),
        Row('Random, no LLF', 'Random', **plain),
        Row('Variance, no LLF', 'Variance', **plain),
        Row('Attn Top-K, no LLF', 'AttnTopK', **cls),
        Row('K-Medoids, no LLF', 'KMedoids', 84.5, **plain),
        Row('ATS, no LLF', 'ATS', 83.9, **cls),
        Row('DPC-KNN, no LLF', 'DPCKNN', 79.2, **plain),
        Row('EViT, no LLF', 'EViT', 84.5, **cls),
        Row('ToMe, no LLF', 'ToMe', 85.0, **plain),
        Row('Cropr, no LLF', 'Cropr', 85.1, **plain),
        Row('Cropr, no LLF, varied rates', 'Cropr', vary_from=0., **plain))


def _cls_right() -> Tuple[Row, ...]:
    plain = dict(constant=True, fuses=False)
    return (
        Row(NO_PRUNING, None, 85.8),
        Row('DynamicViT', 'DynamicViT', 64.4, **plain),
        Row('SiT', 'SiT', 83.0, **plain),
        Row('Sinkhorn', 'Sinkhorn', 56.5, **plain),
        Row('PatchMerger', 'PatchMerger', 82.4, **plain),
        Row(CROPR, 'Cropr', 85.4, **plain),
        Row('Cropr, LLF', 'Cropr', 85.5, constant=True))


def _seg() -> Tuple[Row, ...]:
    return (
        Row(NO_PRUNING, None, 56.7),
        Row(CROPR, 'Cropr', 56.6),
        Row('Cropr, one query', 'Cropr', queries='image'),
        Row('Cropr, varied rates', 'Cropr', vary_from=0.),
        Row('Random', 'Random'),
        Row('Random, varied rates', 'Random', vary_from=0.),
        Row('Variance', 'Variance'),
        Row('Attn Top-K', 'AttnTopK'),
        Row('Non-salient', 'NonSalient'),
        Row('EViT', 'EViT'),
        Row('ToMe', 'ToMe'),
        Row('DynamicViT', 'DynamicViT'))


def _fusion() -> Tuple[Row, ...]:
    def with_neck(name: str, neck: str, published: float) -> Row:
        return Row(name, 'Cropr', published, neck=dict(type=f'mmcropr.{neck}'))

    return (
        Row(NO_PRUNING, None, 56.7),
        with_neck('Cross-Attn', 'CrossAttnNeck', 49.3),
        with_neck('Token Concat', 'TokenConcatNeck', 51.8),
        with_neck('Cross-Attn + Concat', 'CrossAttnConcatNeck', 51.1),
        with_neck('MHSA + Concat', 'MHSAConcatNeck', 55.2),
        with_neck('DToP', 'DToPNeck', 50.1),
        Row(CROPR, 'Cropr', 56.6))  # with Last Layer Fusion


def _det() -> Tuple[Row, ...]:
    return (
        Row(NO_PRUNING, None, 64.2),
        Row('Random', 'Random', 60.6),
        Row('Variance', 'Variance', 62.0),
        Row('Attn Top-K', 'AttnTopK', 62.6),
        Row(CROPR, 'Cropr', 63.0),
        Row('Cropr, varied rates', 'Cropr', vary_from=0.))


def _ablation(heads: int = 3) -> Tuple[Row, ...]:
    many = dict(num_heads=heads)
    return (
        Row(NO_PRUNING, None, 85.8),
        Row(CROPR, 'Cropr', 85.3),
        Row('Multi-head cross-attention', 'Cropr', 85.2, reducer=many,
            head=many),
        Row('Sampling', 'Cropr', 85.1, reducer=dict(selection='sample')),
        Row('Without MLP', 'Cropr', 85.0, head=dict(mlp_ratio=0.)),
        Row('Without stop-gradient', 'Cropr', 85.0,
            reducer=dict(stop_gradient=False)))


_TOP1 = dict(task='cls', metric='accuracy/top1', scale=1.)
_MIOU = dict(task='seg', metric='mIoU', scale=1.)
TABLES: Dict[str, Table] = {
    'cls': Table('Classification, decreasing schedule (top-1)', share=.9,
                 rows=_cls(), **_TOP1),
    'cls-right': Table('Classification, constant schedule (top-1)', share=.67,
                       rows=_cls_right(), **_TOP1),
    'seg': Table('Segmentation (mIoU)', share=.86, rows=_seg(), **_MIOU),
    'fusion': Table('Token fusion, segmentation (mIoU)', share=.86,
                    rows=_fusion(), **_MIOU),
    'det': Table('Detection (AP box)', task='det', metric='coco/bbox_mAP',
                 scale=100., share=.9, rows=_det()),
    'ablation': Table('Architecture of the module (top-1)', share=.9,
                      rows=_ablation(), **_TOP1),
}  # yapf: disable
CURVE = (.0, .5, .7, .8, .9, .95, .97)
CURVE_ROWS = (CROPR, 'Random', 'Variance', 'Attn Top-K')


def choose(table: str, names: Optional[Tuple[str, ...]]) -> Tuple[Row, ...]:
    """Rows of a table, all or those that are named.

    Raises:
        ValueError: Naming the rows there are, if one is unknown.
    """
    rows = {row.name: row for row in TABLES[table].rows}
    for name in names or ():
        if name not in rows:
            raise ValueError(
                f'table {table} has no row {name!r}; it has: ' +
                ', '.join(repr(row) for row in rows))
    return tuple(rows[name] for name in names or rows)


def curve_rows(table: str,
               names: Optional[Tuple[str, ...]]) -> Tuple[Row, ...]:
    """Rows of a table at every share of :data:`CURVE`; at share 0 the one
    without pruning stands for all."""
    known = [row.name for row in TABLES[table].rows]
    names = names or tuple(name for name in CURVE_ROWS if name in known)
    none, = (row for row in TABLES[table].rows if row.method is None)
    return (none, ) + tuple(
        row._replace(name=f'{row.name} {100 * share:.0f} %', share=share,
                     published=None)
        for row in choose(table, names) if row.method
        for share in CURVE if share)
