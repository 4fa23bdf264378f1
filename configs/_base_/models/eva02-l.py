# EVA-02-L with a linear decode head, without token reduction
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),
        test_cfg=dict(size=(512, 512))),
    backbone=dict(
        type='mmcropr.CroprViT',
        arch='eva02_large_patch14_224.mim_m38m',
        img_size=512,
        patch_size=16,
        drop_path_rate=0.2,
        out_type='tokens',
        pretrained=True),
    neck=dict(type='mmcropr.LLFNeck'),
    decode_head=dict(
        type='mmcropr.LinearHead',
        in_channels=1024,
        num_classes=150,
        # As timm starts the head of EVA-02: 0.001 of the usual
        init_cfg=dict(
            type='TruncNormal', std=2e-5, override=dict(name='conv_seg'))),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
