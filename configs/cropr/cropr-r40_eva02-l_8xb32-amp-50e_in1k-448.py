_base_ = '../no_pruning/eva02-l_8xb32-amp-50e_in1k-448.py'
model = dict(
    backbone=dict(
        reducer=dict(type='mmcropr.Cropr', rate=40, num_queries='image')),
    head=dict(type='mmcropr.CroprClsHead'))
