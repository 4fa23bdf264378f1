# Copyright (c) mmcropr contributors.
from typing import Any, Optional, Sequence

from mmengine.hooks import Hook

from mmcropr.registry import HOOKS


@HOOKS.register_module()
class PruningMapHook(Hook):
    pass
