_base_ = '../no_pruning/vit-l_8xb128-amp-50e_in1k-224.py'
model = dict(
    backbone=dict(
        reducer=dict(
            type='mmcropr.Cropr',
            rate=8,
            align=4,
            modules=list(range(23)),
            num_queries=1)),
    neck=dict(llf=False),
    head=dict(type='mmcropr.CroprClsHead', num_modules=23))
