# Most patches leave after the second and third of six blocks
_base_ = '../no_pruning/digits-eva_vpd-depth_1xb16-4e_digits-depth-96x96.py'
model = dict(
    backbone=dict(
        reducer=dict(
            type='mmcropr.Cropr',
            keep=[72, 24],
            modules=[1, 2],
            num_queries='patch')),
    auxiliary_head=dict(
        type='mmcropr.CroprDepthHead', in_channels=96, num_modules=2))
