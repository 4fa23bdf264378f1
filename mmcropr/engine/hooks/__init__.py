# Copyright (c) mmcropr contributors.
from .curriculum_hook import PruningCurriculumHook
from .pruning_map_hook import PruningMapHook

__all__ = ['PruningCurriculumHook', 'PruningMapHook']
