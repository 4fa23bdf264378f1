_base_ = '../no_pruning/digits-eva_1xb32-15e_digits-classes-96x96.py'
model = dict(
    backbone=dict(
        reducer=dict(type='mmcropr.Random', keep=[72, 24], modules=[0, 1])))
