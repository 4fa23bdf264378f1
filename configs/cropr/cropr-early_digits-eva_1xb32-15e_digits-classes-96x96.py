# Most patches leave after the first two of six blocks
_base_ = '../no_pruning/digits-eva_1xb32-15e_digits-classes-96x96.py'
model = dict(
    backbone=dict(
        reducer=dict(
            type='mmcropr.Cropr',
            keep=[72, 24],
            modules=[0, 1],
            num_queries=1)),
    head=dict(type='mmcropr.CroprClsHead', num_modules=2))
