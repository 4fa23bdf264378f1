# Copyright (c) mmcropr contributors.
"""From the config of a reducer to one module per location."""
import inspect
import warnings
from typing import List, Tuple, Type

from mmengine.logging import print_log

from mmcropr.registry import MODELS

from .base import Idle, TokenReducer
from .schedule import PruningSchedule

AMOUNTS = ('rate', 'tpr', 'keep', 'keep_rate')
SCHEDULE_KEYS = AMOUNTS + ('slope', 'modules', 'align')


def find_reducer(reducer: dict) -> Type[TokenReducer]:
    """Class of a reducer's config.

    Raises:
        TypeError: If it is no config, or of something else than a reducer.
        KeyError: If there is no such class.
    """
    if not isinstance(reducer, dict) or 'type' not in reducer:
        raise TypeError(
            "reducer must be a config such as dict(type='mmcropr.Cropr', "
            f'rate=40), got {reducer!r}')
    kind = reducer['type']
    if isinstance(kind, str):
        name, kind = kind, MODELS.get(kind) or MODELS.get(f'mmcropr.{kind}')
        if kind is None:
            known = sorted(
                f'mmcropr.{key}' for key, value in MODELS.module_dict.items()
                if inspect.isclass(value) and issubclass(value, TokenReducer))
            raise KeyError(
                f'no reducer {name!r} is registered; known are '
                f'{", ".join(known)}. One of your own needs its module in '
                'custom_imports.')
    if not (inspect.isclass(kind) and issubclass(kind, TokenReducer)):
        raise TypeError(f'{reducer["type"]} is no token reducer.')
    return kind


def build_reducers(cfg: dict, depth: int, grid: Tuple[int, int],
                   num_prefix: int, embed_dim: int
                   ) -> Tuple[PruningSchedule, List[TokenReducer]]:
    """Schedule of a reducer's config, and a reducer per module.

    Args:
        cfg: Config of the reducer with the keys of its schedule.
        depth: Number of blocks L.
        grid: Reference grid (h, w).
        num_prefix: Number of prefix tokens P.
        embed_dim: Channels D.

    Raises:
        TypeError: If it is no config of a reducer or has unknown keys.
        ValueError: If it does not say how much leaves, or that cannot be.
    """
    kind, own = find_reducer(cfg), dict(cfg)
    keys = {key: own.pop(key) for key in SCHEDULE_KEYS if key in own}
    if not set(AMOUNTS) & set(keys):
        raise ValueError(
            f'reducer={dict(cfg)} does not say how much leaves: give rate, '
            f'tpr, keep or keep_rate. It has the keys {", ".join(cfg)}.')
    if kind.stage not in ('block', 'attention'):
        raise ValueError(f"stage of {kind.__name__} must be 'block' or "
                         f"'attention', got {kind.stage!r}")
    schedule = PruningSchedule(depth, grid, num_prefix, **keys)
    own = {'embed_dim': embed_dim, **own, 'type': kind}
    length, reducers = num_prefix + grid[0] * grid[1], []
    for number, after in zip(schedule.modules, schedule.lengths()):
        idle = kind.fixed_number and after == length
        reducers.append(
            Idle(embed_dim) if idle else _build(own, cfg, after - num_prefix))
        reached = reducers[-1].reached(length, after, num_prefix)
        if reached != after:
            raise ValueError(
                f'reducer={dict(cfg)} after block {number}: {kind.__name__} '
                f'cannot take {length} tokens, {num_prefix} of them prefix '
                f'tokens, to {after} at once, only to {reached}. Let less '
                'leave, or spread it over more modules (lengths are rounded '
                f'up to multiples of align={schedule.align}).')
        length = after
    print_log(f'{kind.__name__}: {schedule.describe()}', 'current')
    if schedule.misses_tpr():
        warnings.warn(f'tpr={schedule.tpr} becomes {schedule.describe()}: '
                      f'lengths are multiples of align={schedule.align}.')
    elif schedule.prunes_nothing():
        warnings.warn(f'{schedule.kind}={schedule.given} prunes nothing of '
                      f'{length} tokens: lengths are rounded up to multiples '
                      f'of align={schedule.align}.')
    return schedule, reducers


def _build(own: dict, cfg: dict, num_tokens: int) -> TokenReducer:
    kind = own['type']
    if kind.fixed_number:
        if 'num_tokens' in own:
            raise ValueError(
                f'num_tokens={own["num_tokens"]} of {cfg["type"]} follows '
                'from the schedule: give keep, rate, tpr or keep_rate.')
        own = dict(own, num_tokens=num_tokens)
    try:
        return MODELS.build(dict(own))
    except TypeError as error:
        names = set(inspect.signature(kind).parameters)
        names -= {'embed_dim', 'num_tokens', 'init_cfg'}
        raise TypeError(
            f'reducer={dict(cfg)} does not fit its class: {error}. Keys of '
            f'{kind.__name__}: {", ".join(sorted(names)) or "none"}; of every '
            f'reducer: {", ".join(SCHEDULE_KEYS)}.') from error
