_base_ = '../no_pruning/vit-l_8xb128-amp-50e_in1k-224.py'
model = dict(
    backbone=dict(
        reducer=dict(
            type='mmcropr.Cropr', rate=8, align=4, num_queries='image')),
    head=dict(type='mmcropr.CroprClsHead'))
