# EoMT for semantic segmentation of ADE20k; configs add the backbone's arch and
# its width
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512)),
    backbone=dict(
        type='mmcropr.CroprViT',
        img_size=512,
        patch_size=16,
        out_type='tokens',
        fuse_at=-4,
        pretrained=True),
    decode_head=dict(
        type='mmcropr.EoMTSegHead',
        num_classes=150,
        num_queries=100,
        num_blocks=4),
    train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(512, 512)))
