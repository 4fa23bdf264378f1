# default_runtime.py for classifiers. The published curriculum belongs to
# segmentation: here the rate is full from the start.
_base_ = './default_runtime.py'
default_scope = 'mmpretrain'
default_hooks = dict(
    visualization=dict(type='VisualizationHook', enable=False),
    pruning_map=dict(type='mmcropr.PruningMapHook'))
custom_hooks = []
visualizer = dict(type='UniversalVisualizer')
