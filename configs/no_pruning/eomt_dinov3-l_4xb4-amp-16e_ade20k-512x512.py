_base_ = [
    '../_base_/models/eomt_seg.py',
    '../_base_/datasets/ade20k-windows_512x512.py',
    '../_base_/schedules/eomt-dinov3_12e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(arch='vit_large_patch16_dinov3_qkvb.lvd1689m'),
    decode_head=dict(in_channels=1024))
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=1.))
train_cfg = dict(max_epochs=16)
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='mmcropr.MaskAnnealingHook',
        start=[0, 6520, 9780, 13040],
        end=[3000, 9780, 13040, 16300])
]
