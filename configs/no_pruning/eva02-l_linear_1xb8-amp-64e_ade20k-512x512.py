_base_ = [
    '../_base_/models/linear.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/adamw_64e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        arch='eva02_large_patch14_224.mim_m38m',
        patch_size=16,
        drop_path_rate=0.2),
    decode_head=dict(
        in_channels=1024,
        # As timm starts the head of EVA-02: 0.001 of the usual
        init_cfg=dict(
            type='TruncNormal', std=2e-5, override=dict(name='conv_seg'))))
