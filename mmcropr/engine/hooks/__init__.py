# Copyright (c) mmcropr contributors.
from .curriculum_hook import PruningCurriculumHook
from .model_check_hook import ModelCheckHook
from .pruning_map_hook import PruningMapHook

__all__ = ['ModelCheckHook', 'PruningCurriculumHook', 'PruningMapHook']
