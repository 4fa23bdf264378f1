# Copyright (c) mmcropr contributors.
from .eomt_constructor import EoMTOptimWrapperConstructor
from .layer_decay import LayerDecayOptimWrapperConstructor

__all__ = [
    'EoMTOptimWrapperConstructor', 'LayerDecayOptimWrapperConstructor'
]
