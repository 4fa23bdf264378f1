# Copyright (c) mmcropr contributors.
"""Token reduction for Vision Transformers in OpenMMLab."""
from importlib import import_module
from typing import Any, List

from .utils.versions import check_timm
from .version import __version__

check_timm()

# Imported when they are asked for: `import mmcropr` alone needs no host
_PLACES = dict(
    CroprViT='mmcropr.models',
    LLFNeck='mmcropr.models',
    PoolNeck='mmcropr.models',
    TokenState='mmcropr.structures')

__all__ = ['CroprViT', 'LLFNeck', 'PoolNeck', 'TokenState', '__version__']


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> List[str]:
    return sorted(set(globals()) | set(_PLACES))
