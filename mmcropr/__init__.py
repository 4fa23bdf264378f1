# Copyright (c) mmcropr contributors.
"""Token reduction for Vision Transformers in OpenMMLab."""
from importlib import import_module
from typing import Any, List

from mmengine.config.utils import MODULE2PACKAGE

from .utils.versions import check_timm
from .version import __version__

check_timm()
# mmengine looks for configs in packages that it knows by name alone. With
# this, `mmengine.hub.get_config('mmcropr::cropr/….py')` finds ours.
MODULE2PACKAGE.setdefault('mmcropr', 'mmcropr')

# Where the names of the Python API are. They are imported when asked for:
# their modules look for mmseg, mmdet and mmpretrain, which takes seconds.
_LAZY = {
    'CroprViT': '.models',
    'LLFNeck': '.models',
    'PoolNeck': '.models',
    'SimpleFPN': '.models',
    'FeatureMaps': '.structures',
    'TokenState': '.structures',
}

__all__ = ['__version__', *_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = getattr(import_module(_LAZY[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> List[str]:
    return sorted({*globals(), *_LAZY})
