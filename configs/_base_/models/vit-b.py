# ViT-B (AugReg, ImageNet-21k) and a linear decode head, no token reduction
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
        arch='vit_base_patch16_224.augreg_in21k',
        img_size=512,
        drop_path_rate=0.1,
        out_type='tokens',
        pretrained=True),
    neck=dict(type='mmcropr.LLFNeck'),
    decode_head=dict(
        type='mmcropr.LinearHead', in_channels=768, num_classes=150),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
