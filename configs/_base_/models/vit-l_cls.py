# ViT-L (MAE) and a linear classifier on the mean of all tokens, without token
# reduction. The norm of the mean starts fresh: MAE's is one of single tokens,
# which a config with pool='cls' has use for (pretrained=True).
model = dict(
    type='mmcropr.CroprClassifier',
    data_preprocessor=dict(
        num_classes=1000,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True),
    backbone=dict(
        type='mmcropr.CroprViT',
        arch='vit_large_patch16_224.mae',
        img_size=224,
        drop_path_rate=0.2,
        out_type='tokens',
        pretrained=dict(weights=True, fresh=['norm.'])),
    neck=dict(type='mmcropr.PoolNeck', pool='avg'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        init_cfg=dict(type='TruncNormal', std=0.02, override=dict(name='fc')),
        loss=dict(
            type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')),
    train_cfg=dict(augments=[
        dict(type='Mixup', alpha=0.8),
        dict(type='CutMix', alpha=1.0)
    ]))
