_base_ = [
    '../_base_/models/depth.py',
    '../_base_/datasets/nyu_512x512.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/adamw_nyu_8e.py',
]
model = dict(
    backbone=dict(
        arch='vit_base_patch16_224.augreg_in21k',
        out_type='tokens',
        drop_path_rate=0.1),
    neck=[
        dict(type='mmcropr.LLFNeck'),
        dict(
            type='mmcropr.SimpleFPN',
            in_channels=768,
            strides=[8, 16, 32, 64],
            num_outs=4)
    ],
    decode_head=dict(
        type='VPDDepthHead',
        in_channels=[256] * 4,
        embed_dim=96,
        feature_dim=768))
