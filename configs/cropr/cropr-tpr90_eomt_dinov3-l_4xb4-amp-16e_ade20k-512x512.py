_base_ = '../no_pruning/eomt_dinov3-l_4xb4-amp-16e_ade20k-512x512.py'
model = dict(
    backbone=dict(
        reducer=dict(type='mmcropr.Cropr', tpr=0.9, num_queries='patch')),
    auxiliary_head=dict(
        type='mmcropr.CroprSegHead',
        in_channels=1024,
        num_classes=150,
        num_modules=19))
