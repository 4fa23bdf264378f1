_base_ = '../no_pruning/eva02-l_linear_1xb8-amp-64e_ade20k-512x512.py'
model = dict(
    backbone=dict(
        reducer=dict(
            type='mmcropr.SiT', keep=[512, 256, 144], modules=[5, 11, 17])))
