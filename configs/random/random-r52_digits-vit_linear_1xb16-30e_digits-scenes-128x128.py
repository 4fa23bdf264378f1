_base_ = [
    '../_base_/models/digits-vit.py',
    '../_base_/datasets/digits-scenes_128x128.py',
    '../_base_/schedules/adamw_digits_30e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        reducer=dict(type='mmcropr.Random', rate=52)))
