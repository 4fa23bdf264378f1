_base_ = '../no_pruning/eva02-l_linear_1xb8-amp-64e_cityscapes-768x768.py'
model = dict(
    backbone=dict(
        reducer=dict(type='mmcropr.Cropr', rate=88, num_queries='patch')),
    auxiliary_head=dict(
        type='mmcropr.CroprSegHead',
        in_channels=1024,
        num_classes=19,
        num_modules=22))
