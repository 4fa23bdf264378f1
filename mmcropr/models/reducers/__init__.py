# Copyright (c) mmcropr contributors.
from .ats import ATS
from .base import SoftMerger, TokenReducer, TopKPruner
from .baselines import AttnTopK, Random, TopK, Variance
from .cropr import Cropr, NonSalient
from .dpc_knn import DPCKNN
from .dynamic_vit import DynamicViT
from .evit import EViT
from .hybrid import CombinedSchedule
from .k_medoids import KMedoids
from .patch_merger import PatchMerger
from .schedule import PruningSchedule
from .sinkhorn import Sinkhorn
from .sit import SiT
from .tome import ToMe

__all__ = [
    'TokenReducer', 'TopKPruner', 'SoftMerger', 'PruningSchedule',
    'CombinedSchedule', 'Cropr',
    'NonSalient', 'Random', 'Variance', 'AttnTopK', 'TopK', 'PatchMerger',
    'SiT', 'Sinkhorn', 'DPCKNN', 'KMedoids', 'EViT', 'ToMe',
    'ATS', 'DynamicViT'
]
