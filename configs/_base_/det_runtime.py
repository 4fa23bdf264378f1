# default_runtime.py for detectors. The published curriculum belongs to
# segmentation: here the rate is full from the start, where a config says no
# other.
_base_ = './default_runtime.py'
default_scope = 'mmdet'
default_hooks = dict(
    visualization=dict(type='DetVisualizationHook'),
    pruning_map=dict(type='mmcropr.PruningMapHook'),
    num_classes=dict(type='NumClassCheckHook'))
custom_hooks = []
visualizer = dict(type='DetLocalVisualizer')
