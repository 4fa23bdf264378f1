_base_ = [
    '../_base_/models/depth.py',
    '../_base_/datasets/nyu_512x512.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/adamw_nyu_8e.py',
]
model = dict(
    backbone=dict(
        arch='vit_base_patch16_224.augreg_in21k',
        out_type='featmap',
        out_indices=(2, 5, 8, 11),
        drop_path_rate=0.1),
    neck=dict(type='mmcropr.ReadoutNeck'),
    decode_head=dict(
        type='mmcropr.DPTDepthHead',
        in_channels=[768] * 4,
        in_index=(0, 1, 2, 3),
        input_transform='multiple_select',
        embed_dims=768,
        channels=256,
        readout_type='project'))
