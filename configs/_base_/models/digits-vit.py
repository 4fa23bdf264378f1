# A ViT small enough to train from scratch on two CPU cores
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(128, 128)),
    backbone=dict(
        type='mmcropr.CroprViT',
        arch=dict(family='vit', embed_dim=96, depth=6, num_heads=3),
        img_size=128,
        patch_size=8,
        out_type='tokens'),
    neck=dict(type='mmcropr.LLFNeck'),
    decode_head=dict(
        type='mmcropr.LinearHead', in_channels=96, num_classes=11),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
