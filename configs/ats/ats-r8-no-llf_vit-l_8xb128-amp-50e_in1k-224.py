_base_ = '../no_pruning/vit-l_8xb128-amp-50e_in1k-224.py'
model = dict(
    backbone=dict(
        fuse_at=None,
        pretrained=True,
        reducer=dict(type='mmcropr.ATS', rate=8, align=4)),
    neck=dict(pool='cls'))
