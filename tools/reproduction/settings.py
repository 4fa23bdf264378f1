# Copyright (c) mmcropr contributors.
"""From a config without pruning to that of a row."""
import re
from math import log2
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

from mmengine.config import Config, ConfigDict

from .rows import Row, Table

ROOT = Path(__file__).resolve().parents[2]
NONE = ROOT / 'configs/no_pruning'
_PHOTOS = 'digits-photos-192x192.py'
_CLASSES = 'digits-photos-classes-192x192.py'
TEXTURES = 'digits-eva_linear_1xb32-15e_digits-scenes-96x96.py'
_SEG = (TEXTURES, *(f'digits-eva-192_linear_1xb16-{name}' for name in (
    '8e_digits-photos-crops-96x96.py', '10e_digits-photos-cluttered-96x96.py',
    f'3e_{_PHOTOS}')))
LEARN_QUERIES = ('Cropr', 'NonSalient')
ONE_QUERY = ('queries', 'aggregators', 'fcs')  # learn faster with one query


class Task(NamedTuple):
    """Configs of a task.

    Args:
        starts: Those that make its start, each from the one before.
        fine_tuning: That of all rows.
        auxiliary: Head that trains Cropr's queries.
        queries: Of a Cropr module.
        first: Where the first module of a decreasing schedule is, as a share
            of the depth. Behind earlier blocks queries learn nothing in
            starts so small (``probe_queries.py``).
        by_pool: Last start of rows that pool otherwise, by their ``pool``.
    """
    starts: tuple
    fine_tuning: str
    auxiliary: str
    queries: str
    first: float = 0.
    by_pool: Dict[str, str] = {}

    def starts_of(self, pool: str) -> tuple:
        """Those of a row that pools so."""
        return (*self.starts[:-1], self.by_pool.get(pool, self.starts[-1]))

    @property
    def last_starts(self) -> tuple:
        """That rows begin with."""
        return (self.starts[-1], *self.by_pool.values())


TASKS = dict(
    seg=Task(_SEG, f'digits-eva-192_linear_1xb16-6e_{_PHOTOS}',
             'CroprSegHead', 'patch', first=.5),
    cls=Task((*_SEG, f'digits-eva-192_1xb32-8e_{_CLASSES}'),
             f'digits-eva-192_1xb16-6e_{_CLASSES}', 'CroprClsHead', 'image',
             first=.5, by_pool=dict(
                 cls=f'digits-eva-192_cls-token_1xb32-8e_{_CLASSES}')),
    det=Task((*_SEG, f'mask-rcnn_digits-eva-192_1xb16-5e_{_PHOTOS}'),
             f'mask-rcnn_digits-eva-192_1xb16-4e_{_PHOTOS}',
             'CroprMultiLabelHead', 'image', first=.5))


class Scale(NamedTuple):
    """How large everything is.

    Args:
        arch: Changes of the ViT.
        scenes: Factor of the number of training scenes.
        batch: Factor of the batch size.
        epochs: Factor of the number of epochs.
        workers: Processes that load data.
        amp: Whether in bfloat16.
    """
    arch: Dict[str, int] = {}
    scenes: int = 1
    batch: int = 1
    epochs: float = 1
    workers: int = 0
    amp: bool = False


SCALES = dict(
    tiny=Scale(),
    small=Scale(dict(embed_dim=192, depth=12, num_heads=6), scenes=2,
                batch=4, workers=4, amp=True))


def detector_of(model: ConfigDict) -> ConfigDict:
    """What has the backbone."""
    return model.get('detector', model)


def _widen(model: ConfigDict, arch: Dict[str, int]) -> None:
    model.backbone.arch.update(arch)
    width = arch['embed_dim']
    necks = model.get('neck')
    necks = necks if isinstance(necks, (list, tuple)) else [necks]
    for part in (*necks, model.get('decode_head')):
        if part is not None and 'in_channels' in part:
            part.in_channels = width


def _set_epochs(cfg: Config, factor: float) -> None:
    epochs = max(1, round(cfg.train_cfg.max_epochs * factor))
    cfg.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    cfg.param_scheduler[1].end = epochs


def base_config(name: str, scale: Scale, data: Path,
                start: Optional[Path] = None) -> Config:
    """A config of ``configs/no_pruning`` at a scale.

    Args:
        name: Of its file.
        scale: How large everything is.
        data: Folder of the data sets.
        start: Checkpoint that it begins with; None to leave that out.
    """
    cfg = Config(_moved(Config.fromfile(NONE / name).to_dict(), data))
    cfg.data_command = re.sub(
        r'(?<=--num-train )\d+', lambda n: str(int(n[0]) * scale.scenes),
        cfg.data_command)
    model = detector_of(cfg.model)
    if scale.arch:
        _widen(model, scale.arch)
    for loader in (cfg.train_dataloader, cfg.val_dataloader,
                   cfg.test_dataloader):
        loader.num_workers = scale.workers
    cfg.train_dataloader.batch_size *= scale.batch
    _set_epochs(cfg, scale.epochs)
    if scale.amp:
        cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype='bfloat16')
    for part in (model, model.backbone):
        if start is None:
            part.pop('init_cfg', None)
        elif part.get('init_cfg'):
            part.init_cfg.checkpoint = str(start)
    cfg.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=1)
    return cfg


def _moved(value: Any, data: Path) -> Any:
    """The same settings with another folder in the place of ``data/``."""
    if isinstance(value, dict):
        return {key: _moved(item, data) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(item, data) for item in value)
    if isinstance(value, str):
        return re.sub(r'(^| )data/', lambda m: f'{m[1]}{data}/', value)
    return value


def lengths(patches: int, share: float) -> List[int]:
    """Tokens after the modules of a constant schedule, as the paper's 136, 96
    and 64 of 196 where two thirds leave; multiples of 8."""
    return _eights([patches * (1 - share * p) for p in (.456, .76, 1.)])


def _eights(steps: List[float]) -> List[int]:
    return [max(8, round(step / 8) * 8) for step in steps]


def _merging(modules: int, patches: int, share: float) -> Optional[List[int]]:
    """Lengths of equal ratios, where a decreasing schedule would merge more
    than half of the patches at once, which ToMe cannot; None elsewhere."""
    each = patches * share / modules
    if patches - each * modules > each:
        return None
    left = (1 - share)**(1 / modules)
    return _eights([patches * left**(i + 1) for i in range(modules)])


def _reducer(row: Row, table: Table, depth: int, patches: int) -> Dict:
    share = table.share if row.share is None else row.share
    reducer: Dict[str, Any] = dict(type=f'mmcropr.{row.method}', **row.reducer)
    if row.constant:
        # A quarter, a half and three quarters of the way, as in the paper
        modules = [depth // 4 - 1, depth // 2 - 1, 3 * depth // 4 - 1]
        modules = [max(k, block) for k, block in enumerate(modules, 1)]
        reducer.update(modules=modules, keep=lengths(patches, share))
        return _queries(reducer, row, table)
    last = depth - 1 - row.fuses
    first = int(depth * TASKS[table.task].first)
    keep = None
    if row.method == 'ToMe':  # merges half at most, so begins early enough
        first = max(0, min(first, last - 1 - int(-log2(1 - share))))
        keep = _merging(last - first, patches, share)
    if keep is None:
        reducer.update(tpr=share)
    else:
        reducer.update(keep=keep)
    if first:
        reducer.update(modules=list(range(first, last)))
    return _queries(reducer, row, table)


def _queries(reducer: Dict, row: Row, table: Table) -> Dict:
    if row.method in LEARN_QUERIES:
        reducer['num_queries'] = row.queries or TASKS[table.task].queries
    return reducer


def _modules(backbone: ConfigDict) -> int:
    """Number of modules where Last Layer Fusion puts tokens back."""
    given = backbone.reducer.get('modules')
    return backbone.arch.depth - 2 if given is None else len(given)


def _auxiliary(row: Row, table: Table, cfg: Config) -> Optional[Dict]:
    """Head that a method learns by; None if it learns by the task alone."""
    model, task = detector_of(cfg.model), TASKS[table.task]
    if row.method == 'DynamicViT':
        return dict(type='mmcropr.DynamicViTHead', **row.head)
    if row.method not in LEARN_QUERIES:
        return None
    one = table.task == 'seg' and row.queries == 'image'
    kind = 'CroprMultiLabelHead' if one else task.auxiliary
    head: Dict[str, Any] = dict(type=f'mmcropr.{kind}', **row.head)
    if table.task == 'seg':
        head.update(
            in_channels=model.backbone.arch.embed_dim,
            num_classes=model.decode_head.num_classes,
            num_modules=_modules(model.backbone))
        loss = model.decode_head.loss_decode
        if not one:
            head.update(loss_decode=dict(loss, type=f'mmseg.{loss.type}'))
    if one:
        cfg.optim_wrapper.paramwise_cfg.custom_keys.update({
            name: dict(lr_mult=3.) for name in ONE_QUERY})
    return head


def _fuse(row: Row, cfg: Config) -> None:
    """Another fusion than Last Layer Fusion."""
    model = detector_of(cfg.model)
    arch, backbone = model.backbone.arch, model.backbone
    side = backbone.img_size // backbone.patch_size
    kind = row.neck['type'].split('.')[1]
    sizes = dict(in_channels=arch.embed_dim, num_heads=arch.num_heads)
    neck = ConfigDict(row.neck)
    if kind in ('CrossAttnNeck', 'CrossAttnConcatNeck', 'MHSAConcatNeck'):
        neck.update(sizes)
    if kind.startswith('CrossAttn'):
        neck.num_queries = (side, side)
        # As other new weights: what is for Cropr's queries is not for these
        cfg.optim_wrapper.paramwise_cfg.custom_keys['neck.queries'] = dict(
            lr_mult=1.)
    if kind == 'DToPNeck':
        neck.update(in_channels=arch.embed_dim, num_modules=_modules(backbone),
                    num_classes=model.decode_head.num_classes)
        model.decode_head.type = 'mmcropr.DToPHead'
    model.neck = neck


def _curriculum(cfg: Config) -> ConfigDict:
    """Its hook that raises the rate."""
    return next(hook for hook in cfg.custom_hooks
                if hook.type == 'mmcropr.PruningCurriculumHook')


def row_config(row: Row, table: Table, cfg: Config, seed: int) -> Config:
    """The config of a row.

    Args:
        row: What it changes.
        table: Of the row.
        cfg: Fine-tuning without pruning; changed in place.
        seed: Of the run.
    """
    cfg.randomness = dict(seed=seed)
    model = detector_of(cfg.model)
    if table.task == 'cls':
        model.neck.pool = row.pool
    if row.method is None:
        return cfg
    if row.vary_from is not None:
        _curriculum(cfg).vary_from = row.vary_from
    backbone = model.backbone
    patches = (backbone.img_size // backbone.patch_size)**2
    if table.task == 'cls':
        backbone.fuse_at = -1 if row.fuses else None
    backbone.reducer = _reducer(row, table, backbone.arch.depth, patches)
    if row.neck is not None:
        _fuse(row, cfg)
    head = _auxiliary(row, table, cfg)
    if head is None:
        return cfg
    if table.task == 'cls':
        kind = head['type'].replace('DynamicViTHead', 'DynamicViTClsHead')
        model.head.update(head, type=kind)
    elif table.task == 'seg':
        model.auxiliary_head = head
    else:
        cfg.model = ConfigDict(
            type='mmcropr.CroprDetector', detector=model, auxiliary_head=head)
    return cfg
