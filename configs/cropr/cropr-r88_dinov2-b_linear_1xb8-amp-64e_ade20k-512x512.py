_base_ = [
    '../_base_/models/dinov2-b.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/adamw_64e.py',
    '../_base_/default_runtime.py',
]
optim_wrapper = dict(type='AmpOptimWrapper')
model = dict(
    backbone=dict(
        reducer=dict(type='mmcropr.Cropr', rate=88, num_queries=1024)),
    auxiliary_head=dict(
        type='mmcropr.CroprSegHead',
        in_channels=768,
        num_classes=150,
        num_modules=10))
