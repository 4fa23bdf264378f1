# default_runtime.py for classifiers. The published curriculum belongs to
# segmentation: here the rate is full from the start, the hook only checks.
_base_ = './default_runtime.py'
default_scope = 'mmpretrain'
default_hooks = dict(
    visualization=dict(type='VisualizationHook', enable=False),
    curriculum=dict(type='mmcropr.PruningCurriculumHook', share=0.),
    pruning_map=dict(type='mmcropr.PruningMapHook'))
custom_hooks = []
visualizer = dict(type='UniversalVisualizer')
