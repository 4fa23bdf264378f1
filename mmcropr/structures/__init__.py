# Copyright (c) mmcropr contributors.
from .attention import BlockAttention
from .feature_maps import FeatureMaps
from .origin import Origin
from .records import Decision, Route
from .rows import other_rows, put_rows, split_lowest, take_rows
from .steps import (Decide, Merge, Mix, Prune, PrunedTokens, Sample, Step,
                    check_order)
from .token_state import TokenState

STEPS = (Prune, Sample, Decide, Merge, Mix)

__all__ = [
    'BlockAttention', 'Decide', 'Decision', 'FeatureMaps', 'Merge', 'Mix',
    'Origin', 'Prune', 'PrunedTokens', 'Route', 'STEPS', 'Sample', 'Step',
    'TokenState', 'check_order', 'other_rows', 'put_rows', 'split_lowest',
    'take_rows'
]
