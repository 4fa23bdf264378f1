_base_ = ['../no_pruning/digits-eva_linear_1xb32-4e_digits-scenes-96x96.py']
model = dict(
    backbone=dict(
        reducer=dict(
            type='mmcropr.Cropr',
            keep=[80, 48, 32],
            modules=[0, 1, 2],
            num_queries='patch')),
    auxiliary_head=dict(
        type='mmcropr.CroprSegHead',
        in_channels=96,
        num_classes=11,
        num_modules=3,
        loss_decode=dict(
            type='mmseg.CrossEntropyLoss', class_weight=[0.3] + [1.0] * 10)))
