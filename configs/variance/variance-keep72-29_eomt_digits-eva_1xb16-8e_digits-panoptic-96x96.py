_base_ = '../no_pruning/eomt_digits-eva_1xb16-8e_digits-panoptic-96x96.py'
model = dict(
    backbone=dict(
        reducer=dict(
            type='mmcropr.Variance', keep=[72, 29], modules=[1, 2], align=1)))
