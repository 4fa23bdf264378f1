# The blocks of digits-eva-192.py and a classifier on the mean of all tokens
_base_ = './digits-eva.py'
backbone = _base_.model.backbone
backbone.update(img_size=192, fuse_at=None)
backbone.arch.use_abs_pos_emb = False
model = dict(
    _delete_=True,
    type='mmcropr.CroprClassifier',
    data_preprocessor=dict(
        num_classes=10,
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        to_rgb=True),
    backbone=backbone,
    neck=dict(type='mmcropr.PoolNeck', pool='avg'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        loss=dict(
            type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')))
