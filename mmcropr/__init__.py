# Copyright (c) mmcropr contributors.
"""Token reduction for Vision Transformers in OpenMMLab."""
from .utils.versions import check_timm
from .version import __version__

check_timm()

__all__ = ['__version__']
