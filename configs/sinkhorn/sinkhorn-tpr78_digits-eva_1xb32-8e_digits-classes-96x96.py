_base_ = '../no_pruning/digits-eva_1xb32-8e_digits-classes-96x96.py'
model = dict(
    backbone=dict(
        reducer=dict(
            type='mmcropr.Sinkhorn', keep=[80, 48, 32], modules=[1, 2, 3])))
