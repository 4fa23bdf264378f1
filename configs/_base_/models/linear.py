# A plain ViT at 512 px with a linear decode head, without token reduction;
# configs add the backbone's arch and what it wants
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
        img_size=512,
        out_type='tokens',
        pretrained=True),
    neck=dict(type='mmcropr.LLFNeck'),
    decode_head=dict(type='mmcropr.LinearHead', num_classes=150),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
