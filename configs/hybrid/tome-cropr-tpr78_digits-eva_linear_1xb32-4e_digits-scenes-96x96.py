# ToMe merges in the first block, Cropr prunes behind the next two
_base_ = ['../no_pruning/digits-eva_linear_1xb32-4e_digits-scenes-96x96.py']
model = dict(
    backbone=dict(reducer=[
        dict(type='mmcropr.ToMe', keep=[80], modules=[0]),
        dict(
            type='mmcropr.Cropr',
            keep=[48, 32],
            modules=[1, 2],
            num_queries='patch')
    ]),
    auxiliary_head=dict(
        type='mmcropr.CroprSegHead',
        in_channels=96,
        num_classes=11,
        num_modules=2,
        loss_decode=dict(
            type='mmseg.CrossEntropyLoss', class_weight=[0.3] + [1.0] * 10)))
