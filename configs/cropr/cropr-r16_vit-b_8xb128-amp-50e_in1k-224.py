_base_ = '../no_pruning/vit-b_8xb128-amp-50e_in1k-224.py'
model = dict(
    backbone=dict(
        reducer=dict(
            type='mmcropr.Cropr', rate=16, align=4, num_queries='image')),
    head=dict(type='mmcropr.CroprClsHead'))
