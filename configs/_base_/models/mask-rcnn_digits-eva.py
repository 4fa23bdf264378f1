# Mask R-CNN on EVA-02's blocks, small enough for two CPU cores
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'
strides = [8, 16, 32]
model = dict(
    data_preprocessor=dict(
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        pad_size_divisor=8),
    backbone=dict(
        _delete_=True,
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
    neck=[
        dict(type='mmcropr.LLFNeck'),
        dict(
            type='mmcropr.SimpleFPN',
            in_channels=96,
            out_channels=64,
            num_outs=3,
            patch_size=8,
            strides=strides)
    ],
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(scales=[3], strides=strides)),
    roi_head=dict(
        bbox_roi_extractor=dict(
            out_channels=64, finest_scale=28, featmap_strides=strides),
        bbox_head=dict(in_channels=64, fc_out_channels=128, num_classes=10),
        mask_roi_extractor=dict(
            out_channels=64, finest_scale=28, featmap_strides=strides),
        mask_head=dict(
            in_channels=64, conv_out_channels=64, num_convs=2,
            num_classes=10)),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=50),
        rcnn=dict(sampler=dict(num=16))),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=50)))
