# Copyright (c) mmcropr contributors.
from .curriculum_hook import PruningCurriculumHook
from .finite_loss_hook import FiniteLossHook, NonFiniteLossError
from .mask_annealing_hook import MaskAnnealingHook
from .model_check_hook import ModelCheckHook
from .pruning_map_hook import PruningMapHook
from .token_log_hook import TokenLogHook

__all__ = [
    'FiniteLossHook', 'MaskAnnealingHook', 'ModelCheckHook',
    'NonFiniteLossError', 'PruningCurriculumHook', 'PruningMapHook',
    'TokenLogHook'
]
