_base_ = [
    '../_base_/models/linear.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/adamw_64e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        arch='vit_large_patch16_224.augreg_in21k', drop_path_rate=0.2),
    decode_head=dict(in_channels=1024))
