# With registers
_base_ = [
    '../_base_/models/linear.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/adamw_64e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(
        arch='vit_base_patch14_reg4_dinov2.lvd142m',
        patch_size=16,
        drop_path_rate=0.1),
    decode_head=dict(in_channels=768))
