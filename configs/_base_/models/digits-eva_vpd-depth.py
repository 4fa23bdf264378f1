# EVA-02's blocks, small enough to train from scratch on two CPU cores, and the
# depth head of VPD on a pyramid of their last map
model = dict(
    type='DepthEstimator',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=0,
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
    neck=[
        dict(type='mmcropr.LLFNeck'),
        dict(
            type='mmcropr.SimpleFPN',
            in_channels=96,
            out_channels=32,
            patch_size=8,
            strides=[2, 4, 8, 16],
            num_outs=4)
    ],
    decode_head=dict(
        type='VPDDepthHead',
        in_channels=[32, 32, 32, 32],
        feature_dim=128,
        embed_dim=16,
        num_deconv_layers=1,
        num_deconv_filters=[32],
        max_depth=10.),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
