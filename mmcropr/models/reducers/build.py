# Copyright (c) mmcropr contributors.
"""From the config of a reducer, or of several, to one module per location."""
import difflib
import inspect
import warnings
from typing import (Any, Dict, List, NamedTuple, Optional, Sequence, Tuple,
                    Type, Union)

from mmengine.logging import print_log

from mmcropr.registry import MODELS
from mmcropr.structures import check_order
from mmcropr.utils.rates import AMOUNTS

from .base import Idle, TokenReducer
from .hybrid import CombinedSchedule
from .schedule import PruningSchedule

SCHEDULE_KEYS = AMOUNTS + ('slope', 'modules', 'align')
ReducerConfig = Union[dict, Sequence[dict]]


class Sizes(NamedTuple):
    """Of a ViT: blocks L, reference grid (h, w), prefix tokens P, channels D,
    and the block before which all tokens are put back (None: never)."""
    depth: int
    grid: Tuple[int, int]
    num_prefix: int
    embed_dim: int
    fuse_at: Optional[int] = -1


def find_reducer(reducer: dict) -> Type[TokenReducer]:
    """Class of a reducer's config.

    Raises:
        TypeError: If it is no config, or of something else than a reducer.
        KeyError: If there is no such class.
    """
    if not isinstance(reducer, dict) or 'type' not in reducer:
        raise TypeError(
            "reducer must be a config such as dict(type='mmcropr.Cropr', "
            f'rate=40), or a list of them, got {reducer!r}')
    kind = reducer['type']
    if isinstance(kind, str):
        name, kind = kind, MODELS.get(kind) or MODELS.get(f'mmcropr.{kind}')
        if kind is None:
            known = sorted(
                f'mmcropr.{key}' for key, value in MODELS.module_dict.items()
                if inspect.isclass(value) and issubclass(value, TokenReducer))
            near = difflib.get_close_matches(
                name.split('.')[-1].lower(), [k[8:].lower() for k in known], 1)
            near = [k for k in known if k[8:].lower() in near]
            guess = f' Did you mean {near[0]!r}?' if near else ''
            raise KeyError(
                f'no reducer {name!r} is registered.{guess} Known are '
                f'{", ".join(known)}. One of your own needs its module in '
                'custom_imports.')
    if not (inspect.isclass(kind) and issubclass(kind, TokenReducer)):
        raise TypeError(f'{reducer["type"]} is no token reducer.')
    return kind


def build_reducers(
        cfg: ReducerConfig,
        sizes: Sizes) -> Tuple[PruningSchedule, List[TokenReducer]]:
    """Schedule of a reducer's config, and a reducer per module.

    Args:
        cfg: Config of the reducer with the keys of its schedule, or a list of
            them: several methods, each at blocks of its own.
        sizes: Of the ViT.

    Raises:
        TypeError: If it is no config of a reducer or has unknown keys.
        ValueError: If it does not say how much leaves, that cannot be, or one
            method cannot follow another.
    """
    several = isinstance(cfg, (list, tuple)) and len(cfg) > 0
    cfgs: List[Any] = list(cfg) if several else [cfg]
    schedules = [_schedule(cfg, sizes) for cfg in cfgs]
    schedule = schedules[0]
    if len(cfgs) > 1:
        schedule = CombinedSchedule(schedules)
    length, reducers = sizes.num_prefix + sizes.grid[0] * sizes.grid[1], []
    for entry, after in zip(schedule.entries, schedule.lengths()):
        reducers.append(
            _at(entry.block, cfgs[entry.schedule], sizes, length, after,
                entry.align))
        length = after
    _check_orders(schedule, reducers)
    _report(schedule, reducers)
    return schedule, reducers


def _schedule(cfg: dict, sizes: Sizes) -> PruningSchedule:
    kind = find_reducer(cfg)
    keys = {key: cfg[key] for key in SCHEDULE_KEYS if key in cfg}
    if not set(AMOUNTS) & set(keys):
        raise ValueError(
            f'reducer={dict(cfg)} does not say how much leaves: give rate, '
            f'tpr, keep or keep_rate. It has the keys {", ".join(cfg)}.')
    if kind.stage not in ('block', 'attention'):
        raise ValueError(f"stage of {kind.__name__} must be 'block' or "
                         f"'attention', got {kind.stage!r}")
    return PruningSchedule(
        sizes.depth,
        sizes.grid,
        sizes.num_prefix,
        fuse_at=sizes.fuse_at,
        **keys)


def _at(block: int, cfg: dict, sizes: Sizes, length: int, after: int,
        align: int) -> TokenReducer:
    """The reducer after a block, from ``length`` tokens to ``after``."""
    kind, num_prefix = find_reducer(cfg), sizes.num_prefix
    if kind.fixed_number and after == length:
        return Idle(sizes.embed_dim)
    reducer = _build(kind, cfg, sizes, after - num_prefix)
    reachable = reducer.reachable_length(length, after, num_prefix)
    if reachable != after:
        raise ValueError(
            f'reducer={dict(cfg)} after block {block}: {kind.__name__} '
            f'cannot take {length} tokens, {num_prefix} of them prefix '
            f'tokens, to {after} at once, only to {reachable}. Let less '
            'leave, or spread it over more modules (lengths are rounded '
            f'up to multiples of align={align}).')
    return reducer


def _build(kind: Type[TokenReducer], cfg: dict, sizes: Sizes,
           num_tokens: int) -> TokenReducer:
    keywords = {k: v for k, v in cfg.items() if k not in SCHEDULE_KEYS}
    keywords = {'embed_dim': sizes.embed_dim, **keywords, 'type': kind}
    if kind.fixed_number:
        if 'num_tokens' in keywords:
            raise ValueError(
                f'num_tokens={keywords["num_tokens"]} of '
                f'{cfg["type"]} follows from the schedule: give keep, rate, '
                'tpr or keep_rate.')
        keywords['num_tokens'] = num_tokens
    if isinstance(keywords.get('num_queries'), str):
        keywords['num_queries'] = _queries(keywords['num_queries'], sizes)
    try:
        return MODELS.build(keywords)
    except TypeError as error:
        names = set(inspect.signature(kind).parameters)
        names -= {'embed_dim', 'num_tokens', 'init_cfg'}
        raise TypeError(
            f'reducer={dict(cfg)} does not fit its class: {error}. Keys of '
            f'{kind.__name__}: {", ".join(sorted(names)) or "none"}; of every '
            f'reducer: {", ".join(SCHEDULE_KEYS)}.') from error


def _queries(name: str, sizes: Sizes) -> int:
    """Number of queries by name: one per patch of the training crop, or one
    per image."""
    numbers: Dict[str, int] = dict(
        patch=sizes.grid[0] * sizes.grid[1], image=1)
    if name not in numbers:
        raise ValueError(
            "num_queries must be 'patch' (segmentation: one per patch of "
            "img_size), 'image' (classification, detection: one; "
            "segmentation, too, with CroprMultiLabelHead) or a number,"
            f' got {name!r}')
    return numbers[name]


def _check_orders(schedule: PruningSchedule,
                  reducers: Sequence[TokenReducer]) -> None:
    """Raise a ValueError if a reducer cannot follow those before it."""
    made: List[type] = []
    for block, reducer in zip(schedule.modules, reducers):
        for kind in reducer.step_types:
            try:
                check_order(kind, made)
            except ValueError as error:
                raise ValueError(
                    f'{type(reducer).__name__} cannot work after block '
                    f'{block}, behind the reducers before it. {error}'
                ) from error
        made += reducer.step_types


def _report(schedule: PruningSchedule,
            reducers: Sequence[TokenReducer]) -> None:
    names = list(dict.fromkeys(
        type(r).__name__ for r in reducers if not isinstance(r, Idle)))
    print_log(f'{", ".join(names) or "Idle"}: {schedule.describe()}',
              'current')
    if schedule.misses_tpr():
        warnings.warn(f'tpr={schedule.tpr} becomes {schedule.describe()}: '
                      'lengths are multiples of align='
                      f'{schedule.entries[-1].align}.')
    elif schedule.prunes_little():
        total = schedule.grid[0] * schedule.grid[1] + schedule.num_prefix
        left = schedule.lengths()[-1]
        what = 'nothing' if left == total else f'only {total - left}'
        warnings.warn(f'{schedule.text} prunes {what} of {total} tokens: '
                      'lengths are rounded up to multiples of align='
                      f'{schedule.entries[-1].align}; align=1 switches that '
                      'off.')
