_base_ = [
    '../_base_/models/eomt_seg.py',
    '../_base_/datasets/ade20k-windows_512x512.py',
    '../_base_/schedules/eomt_12e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(arch='vit_large_patch14_reg4_dinov2.lvd142m'),
    decode_head=dict(in_channels=1024))
train_cfg = dict(max_epochs=31)
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='mmcropr.MaskAnnealingHook',
        start=[6520, 13040, 19560, 26080],
        end=[13040, 19560, 26080, 32600])
]
