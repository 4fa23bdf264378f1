# Copyright (c) mmcropr contributors.
from .curriculum_hook import PruningCurriculumHook
from .finite_loss_hook import FiniteLossHook, NonFiniteLossError
from .pruning_map_hook import PruningMapHook

__all__ = [
    'FiniteLossHook', 'NonFiniteLossError', 'PruningCurriculumHook',
    'PruningMapHook'
]
