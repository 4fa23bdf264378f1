_base_ = [
    '../_base_/models/digits-vit.py',
    '../_base_/datasets/digits-scenes_128x128.py',
    '../_base_/schedules/adamw_digits_30e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        reducer=dict(type='mmcropr.Cropr', rate=52, num_queries=256)),
    auxiliary_head=dict(
        type='mmcropr.CroprSegHead',
        in_channels=96,
        num_classes=11,
        num_modules=4))
