# default_runtime.py for detectors. The published curriculum belongs to
# segmentation: here the rate is full from the start, the hook only checks.
_base_ = './default_runtime.py'
default_scope = 'mmdet'
default_hooks = dict(
    visualization=dict(type='DetVisualizationHook'),
    curriculum=dict(type='mmcropr.PruningCurriculumHook', share=0.),
    pruning_map=dict(type='mmcropr.PruningMapHook'),
    num_classes=dict(type='NumClassCheckHook'))
custom_hooks = []
visualizer = dict(type='DetLocalVisualizer')
