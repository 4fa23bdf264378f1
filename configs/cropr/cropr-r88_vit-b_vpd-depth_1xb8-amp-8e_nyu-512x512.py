_base_ = '../no_pruning/vit-b_vpd-depth_1xb8-amp-8e_nyu-512x512.py'
model = dict(
    backbone=dict(
        reducer=dict(type='mmcropr.Cropr', rate=88, num_queries='patch')),
    auxiliary_head=dict(
        type='mmcropr.CroprDepthHead', in_channels=768, num_modules=10))
