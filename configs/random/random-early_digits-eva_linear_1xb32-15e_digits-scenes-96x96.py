# Most patches leave after the first two of six blocks
_base_ = [
    '../_base_/models/digits-eva.py',
    '../_base_/datasets/digits-scenes_96x96.py',
    '../_base_/schedules/adamw_digits_15e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        reducer=dict(
            type='mmcropr.Random', keep=[72, 24], modules=[0, 1])))
