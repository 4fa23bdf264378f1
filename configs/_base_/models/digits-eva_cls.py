# EVA-02's blocks and a classifier, small enough for two CPU cores
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        num_classes=10,
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        to_rgb=True),
    backbone=dict(
        type='mmcropr.CroprViT',
        arch=dict(
            family='eva',
            embed_dim=96,
            depth=6,
            num_heads=3,
            mlp_ratio=8 / 3,
            qkv_fused=False,
            swiglu_mlp=True,
            use_rot_pos_emb=True),
        img_size=96,
        patch_size=8,
        out_type='tokens'),
    neck=dict(type='mmcropr.PoolNeck', pool='avg'),
    head=dict(
        type='LinearClsHead',
        in_channels=96,
        num_classes=10,
        loss=dict(
            type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')))
