# A plain ViT at 512 px for depth up to 10 m, without token reduction; configs
# add the backbone's arch, neck and head
model = dict(
    type='DepthEstimator',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=0,
        size=(512, 512)),
    backbone=dict(type='mmcropr.CroprViT', img_size=512, pretrained=True),
    train_cfg=dict(),
    test_cfg=dict(mode='slide_flip', crop_size=(512, 512), stride=(128, 128)))
