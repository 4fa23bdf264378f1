_base_ = '../no_pruning/dinov2-b_linear_1xb8-amp-64e_ade20k-512x512.py'
model = dict(
    backbone=dict(
        reducer=dict(type='mmcropr.Cropr', rate=88, num_queries='patch')),
    auxiliary_head=dict(
        type='mmcropr.CroprSegHead',
        in_channels=768,
        num_classes=150,
        num_modules=10))
