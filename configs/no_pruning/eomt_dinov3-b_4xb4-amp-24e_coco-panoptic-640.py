_base_ = [
    '../_base_/models/eomt.py',
    '../_base_/datasets/coco-panoptic_640x640.py',
    '../_base_/schedules/eomt-dinov3_12e.py',
    '../_base_/det_runtime.py',
]
model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(
        arch='vit_base_patch16_dinov3_qkvb.lvd1689m', img_size=640,
        fuse_at=-3),
    panoptic_head=dict(in_channels=768, num_blocks=3))
optim_wrapper = dict(paramwise_cfg=dict(full_rate_blocks=3))
train_cfg = dict(max_epochs=24)
custom_hooks = [
    dict(
        type='mmcropr.MaskAnnealingHook',
        start=[0, 5 / 12, 2 / 3],
        end=[3000, 7 / 12, 5 / 6])
]
