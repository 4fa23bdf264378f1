# Copyright (c) mmcropr contributors.
from .base import TokenReducer, TopKPruner
from .baselines import AttnTopK, Random, Variance
from .cropr import Cropr, NonSalient
from .schedule import PruningSchedule

__all__ = [
    'TokenReducer', 'TopKPruner', 'PruningSchedule', 'Cropr', 'NonSalient',
    'Random', 'Variance', 'AttnTopK'
]
