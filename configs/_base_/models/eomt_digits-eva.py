# EoMT on EVA-02's blocks, small enough for two CPU cores: queries join before
# the last two of six blocks
_base_ = './eomt.py'
model = dict(
    data_preprocessor=dict(
        size=(96, 96), mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(
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
        fuse_at=-2,
        pretrained=False),
    panoptic_head=dict(
        in_channels=96,
        num_things_classes=10,
        num_stuff_classes=2,
        num_queries=10,
        num_blocks=2,
        num_upscale=1),
    panoptic_fusion_head=dict(num_things_classes=10, num_stuff_classes=2),
    train_cfg=dict(num_points=256),
    test_cfg=dict(instance_on=True, max_per_image=10, object_mask_thr=0.5))
