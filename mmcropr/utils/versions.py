# Copyright (c) mmcropr contributors.
"""What mmcropr asks of its environment."""
from functools import lru_cache
from importlib import import_module
from typing import Any, Optional, Set, Type

from mmengine.config import Config
from mmengine.registry import Registry

TIMM_FLOOR = '1.0.20'
HOSTS = ('mmseg', 'mmdet', 'mmpretrain')


def version_tuple(text: str) -> tuple:
    """``'1.0.20.dev0'`` -> ``(1, 0, 20)``: the leading numbers."""
    numbers = []
    for part in text.split('+')[0].split('.'):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def check_timm() -> None:
    """Raise an ImportError unless timm is recent enough.

    The floor is the first release whose ViT attention takes a mask and which
    has DINOv3; the module's own version counts, not a distribution's name.
    """
    remedy = f'Run: pip install "timm>={TIMM_FLOOR}"'
    try:
        timm = import_module('timm')
    except ModuleNotFoundError as error:
        if error.name != 'timm':
            raise
        raise ImportError(f'mmcropr needs timm. {remedy}') from error
    if version_tuple(timm.__version__) < version_tuple(TIMM_FLOOR):
        raise ImportError(f'mmcropr needs timm >= {TIMM_FLOOR}, found '
                          f'{timm.__version__}. {remedy}')


@lru_cache(maxsize=None)
def failed_import(module: str) -> Optional[Exception]:
    """Import a module of a host; why it failed, or None.

    Whatever a host raises: one that does not fit what it finds here, such as
    mmpretrain beside transformers 5 (a TypeError), must not take along those
    that do. It is tried once; a second time it would stumble over what the
    first one registered.
    """
    try:
        import_module(module)
    except Exception as error:
        return error
    return None


def register_missing(registry: Registry, name: str, host: str,
                     error: BaseException) -> Type:
    """Register a stand-in for a class whose host package cannot be imported.

    ``import mmcropr`` then works without that host, and only a config that
    asks for the class is told what is missing.

    Args:
        registry: Registry that would hold the class.
        name: Name of the class.
        host: Import name of the package it needs.
        error: Why that package could not be imported.
    """

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        raise ImportError(
            f'mmcropr.{name} needs {host}, which could not be imported: '
            f'{type(error).__name__}: {error}. `python tools/check_env.py` of '
            'mmcropr names the command that mends it.')

    cls = type(name, (), {'__init__': __init__})
    registry.register_module(name=name, module=cls)
    return cls


def _scopes(part: Any) -> Set[str]:
    """Scopes of all types such as ``'mmdet.MaskRCNN'`` in a config."""
    if isinstance(part, (list, tuple)):
        return set().union(*map(_scopes, part))
    if not isinstance(part, dict):
        return set()
    kind = part.get('type')
    own = {kind.split('.')[0]} if isinstance(kind, str) and '.' in kind else (
        set())
    return own.union(*map(_scopes, part.values()))


def check_hosts(cfg: Config) -> None:
    """Import the hosts whose classes a config names; mmengine would only say
    that a class is not in its registry.

    Raises:
        ImportError: Naming the first that cannot be imported.
    """
    asked = {cfg.get('default_scope')} | _scopes(cfg.to_dict())
    for host in HOSTS:
        if host not in asked:
            continue
        try:
            for part in ('', '.models', '.datasets'):
                import_module(host + part)
        except Exception as error:  # of a host that does not fit as well
            raise ImportError(
                f'this config needs {host}, which cannot be imported '
                f'({type(error).__name__}: {error}). `python '
                'tools/check_env.py` of mmcropr names the command that mends '
                'it.') from error
