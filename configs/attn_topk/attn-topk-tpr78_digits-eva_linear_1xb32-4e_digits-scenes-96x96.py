_base_ = ['../no_pruning/digits-eva_linear_1xb32-4e_digits-scenes-96x96.py']
model = dict(
    backbone=dict(
        reducer=dict(
            type='mmcropr.AttnTopK', keep=[80, 48, 32], modules=[0, 1, 2])))
