_base_ = '../no_pruning/vit-l_8xb128-amp-50e_in1k-224.py'
model = dict(
    backbone=dict(
        fuse_at=None, reducer=dict(type='mmcropr.ToMe', rate=8, align=4)))
