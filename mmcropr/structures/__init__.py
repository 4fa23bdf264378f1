# Copyright (c) mmcropr contributors.
from .feature_maps import FeatureMaps
from .records import Decision, Pruned, Route
from .rows import put_rows, split_lowest, take_rows
from .token_state import TokenState

__all__ = [
    'Decision', 'FeatureMaps', 'Pruned', 'Route', 'TokenState', 'put_rows',
    'split_lowest', 'take_rows'
]
