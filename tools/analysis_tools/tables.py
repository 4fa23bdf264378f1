# Copyright (c) mmcropr contributors.
"""The published speed tables (Bergner et al., Token Cropr, CVPR 2025), to be
measured anew with random weights: our ratio beside the published one; and one
of every reducer."""
import copy
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from mmengine.config import Config, ConfigDict

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
SMALL = dict(embed_dim=192, num_heads=3)  # of a ViT that two CPU cores run


class Row(NamedTuple):
    """A line of a table: the config, the speed that was published, in images
    per second, None where there is none, and a reducer to put in."""
    name: str
    config: str
    published: Optional[float] = None
    reducer: Optional[Dict[str, Any]] = None


class Table(NamedTuple):
    """A published table. The first row is what the others are compared with.

    Args:
        title: Of the table.
        rows: Its lines.
        shape: Image size in pixels.
        small_shape: That of ``--small``.
        batch: Images at once.
        whole: Whether whole models are timed, or encoders.
    """
    title: str
    rows: Tuple[Row, ...]
    shape: Tuple[int, int]
    small_shape: Tuple[int, int]
    batch: int
    whole: bool = False


def _rows(end: str, *rows: tuple) -> Tuple[Row, ...]:
    return tuple(Row(row[0], row[1] + end, *row[2:]) for row in rows)


def _classification() -> Tuple[Row, ...]:
    """Methods that have Last Layer Fusion, then those that have none."""
    constant = 'keep136-96-64'
    return _rows(
        'vit-l_8xb128-amp-50e_in1k-224.py',
        ('No pruning', 'no_pruning/', 860),
        ('Non-salient', 'non_salient/non-salient-r8_', 1480),
        ('Random', 'random/random-r8_', 1500),
        ('Variance', 'variance/variance-r8_', 1500),
        ('Attn Top-K', 'attn_topk/attn-topk-r8_', 1450),
        ('Cropr', 'cropr/cropr-r8_', 1480),
        ('K-Medoids, no LLF', 'k_medoids/k-medoids-r8-no-llf_', 310),
        ('ATS, no LLF', 'ats/ats-r8-no-llf_', 490),
        ('DPC-KNN, no LLF', 'dpc_knn/dpc-knn-r8-no-llf_', 1000),
        ('EViT, no LLF', 'evit/evit-r8-no-llf_', 1570),
        ('ToMe, no LLF', 'tome/tome-r8-no-llf_', 1550),
        ('Cropr, no LLF', 'cropr/cropr-r8-no-llf_', 1610),
        ('DynamicViT, constant, no LLF',
         f'dynamic_vit/dynamic-vit-{constant}-no-llf_', 1320),
        ('SiT, constant, no LLF', f'sit/sit-{constant}-no-llf_', 1410),
        ('Sinkhorn, constant, no LLF', f'sinkhorn/sinkhorn-{constant}-no-llf_',
         1400),
        ('PatchMerger, constant, no LLF',
         f'patch_merger/patch-merger-{constant}-no-llf_', 1400),
        ('Cropr, constant, no LLF', f'cropr/cropr-{constant}-no-llf_', 1430),
        ('Cropr, constant', f'cropr/cropr-{constant}_', 1350))


def _reducers() -> Tuple[Row, ...]:
    """All of them, on one ViT. Those that leave a fixed number of tokens do
    so at a quarter of the depth each."""
    config = 'no_pruning/vit-b_linear_1xb8-amp-64e_ade20k-512x512.py'
    fixed = dict(keep=[512, 256, 144], modules=[2, 5, 8])
    kinds: Dict[str, Dict[str, Any]] = {
        name: dict(rate=88)
        for name in ('Random', 'Variance', 'AttnTopK', 'TopK', 'EViT', 'ATS',
                     'ToMe', 'DPCKNN', 'KMedoids')}
    kinds = dict(Cropr=dict(rate=88, num_queries='patch'),
                 NonSalient=dict(rate=88, num_queries='patch'), **kinds)
    for name in ('DynamicViT', 'SiT', 'PatchMerger', 'Sinkhorn'):
        kinds[name] = fixed
    return (Row('No pruning', config), *(
        Row(name, config, reducer=dict(type=f'mmcropr.{name}', **amount))
        for name, amount in kinds.items()))


TABLES: Dict[str, Table] = dict(
    reducers=Table('Every reducer, ViT-B/16, 512 px', _reducers(), (512, 512),
                   (512, 512), 8),
    cls=Table('Image classification, ViT-L/16, 224 px', _classification(),
              (224, 224), (224, 224), 128),
    eva02=Table(
        'Image classification, EVA-02-L, 448 px',
        _rows('eva02-l_8xb32-amp-50e_in1k-448.py',
              ('EVA-02', 'no_pruning/', 64),
              ('Cropr, R 40', 'cropr/cropr-r40_', 132),
              ('Cropr, 80 % at block 3, no LLF',
               'cropr/cropr-keep208-r8-no-llf_', 259)),
        (448, 448), (448, 448), 64),
    seg=Table(
        'Segmentation, EVA-02-L, 512 px, whole model',
        _rows('eva02-l_linear_1xb8-amp-64e_ade20k-512x512.py',
              ('No pruning', 'no_pruning/', 1.0),
              ('Random', 'random/random-r40_'),
              ('Variance', 'variance/variance-r40_'),
              ('Attn Top-K', 'attn_topk/attn-topk-r40_'),
              ('EViT', 'evit/evit-r40_'),
              ('ToMe', 'tome/tome-r40_'),
              ('Cropr', 'cropr/cropr-r40_', 2.0)),
        (512, 512), (512, 512), 32, whole=True),
    det=Table(
        'Detection, Cascade Mask R-CNN on EVA-02-L, 1536 px, encoder',
        _rows('cascade-mask-rcnn_eva02-l_8xb8-amp-40k_coco-1536.py',
              ('No pruning', 'no_pruning/', 5.8),
              ('Random', 'random/random-tpr97_', 14.0),
              ('Variance', 'variance/variance-tpr97_', 13.9),
              ('Attn Top-K', 'attn_topk/attn-topk-tpr97_', 10.8),
              ('Cropr', 'cropr/cropr-tpr97_', 13.9)),
        (1536, 1536), (512, 512), 4),
    ablation=Table(
        'Architecture of the module, ViT-L/16, 224 px',
        _rows('vit-l_8xb128-amp-50e_in1k-224.py',
              ('No pruning', 'no_pruning/', 860),
              ('Simple cross-attention, Top-K', 'cropr/cropr-r8_', 1476),
              ('Multi-head cross-attention', 'cropr/cropr-r8-mha_', 1352),
              ('Sampling', 'cropr/cropr-r8-sampling_')),
        (224, 224), (224, 224), 128))  # yapf: disable


def load(row: Row, small: bool = False) -> Config:
    """The config of a line, its ViT made narrow if ``small``: as many blocks
    and tokens, so that schedules are the same."""
    cfg = Config.fromfile(CONFIGS / row.config)
    if row.reducer is not None:
        model = cfg.model.get('detector', cfg.model)
        model.backbone.reducer = ConfigDict(row.reducer)
    return shrink(cfg) if small else cfg


def shrink(cfg: Config) -> Config:
    """The same config on a ViT of :data:`SMALL` width."""
    cfg = copy.deepcopy(cfg)
    model = cfg.model.get('detector', cfg.model)
    arch = model.backbone.arch
    arch = dict(name=arch) if isinstance(arch, str) else dict(arch)
    model.backbone.arch = ConfigDict({**arch, **SMALL})
    necks = model.get('neck')
    necks = necks if isinstance(necks, (list, tuple)) else [necks]
    for part in (*necks, model.get('decode_head')):
        if part is not None and 'in_channels' in part:
            part.in_channels = SMALL['embed_dim']
    return cfg


def choose(table: Table, names: Optional[List[str]]) -> Table:
    """A table with its first row and those that are named; all if None.

    Raises:
        ValueError: Naming the rows there are, if one is unknown.
    """
    known = [row.name for row in table.rows]
    for name in names or ():
        if name not in known:
            raise ValueError(f'{table.title}: no row {name!r}; it has: ' +
                             ', '.join(map(repr, known)))
    return table._replace(rows=tuple(
        row for row in table.rows
        if names is None or row is table.rows[0] or row.name in names))


def compare(table: Table, rows: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """Measured rows of a table with what was published beside them."""
    by_name, first = {row['name']: row for row in rows}, table.rows[0]
    result = []
    for row in table.rows:
        ratio = None
        if row.published is not None and first.published is not None:
            ratio = row.published / first.published
        found = dict(by_name[row.name], published_ratio=ratio)
        if row is first:
            found['ratio_to_no_pruning'] = 1.0
        result.append(found)
    return result


def markdown(rows: List[Dict[str, Any]]) -> str:
    """A table of :func:`compare` in Markdown."""
    lines = [
        '| method | images/s | ratio | published ratio | of ideal slicing |',
        '| --- | --- | --- | --- | --- |'
    ]
    for row in rows:
        cells = [row['name'], f'{row["images_per_second"]:.1f}'] + [
            '' if row[key] is None else f'{row[key]:.2f}'
            for key in ('ratio_to_no_pruning', 'published_ratio',
                        'ratio_to_ideal_slicing')]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'
