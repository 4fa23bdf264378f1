# EVA-02's blocks, small enough to train from scratch on two CPU cores
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(96, 96)),
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
    neck=dict(type='mmcropr.LLFNeck'),
    decode_head=dict(
        type='mmcropr.LinearHead',
        in_channels=96,
        num_classes=11,
        loss_decode=dict(
            type='CrossEntropyLoss', class_weight=[0.3] + [1.0] * 10)),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
