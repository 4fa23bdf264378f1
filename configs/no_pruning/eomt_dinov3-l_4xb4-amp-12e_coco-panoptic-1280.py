_base_ = [
    '../_base_/models/eomt.py',
    '../_base_/datasets/coco-panoptic_1280x1280.py',
    '../_base_/schedules/eomt-dinov3_12e.py',
    '../_base_/det_runtime.py',
]
model = dict(
    data_preprocessor=dict(size=(1280, 1280)),
    backbone=dict(
        arch='vit_large_patch16_dinov3_qkvb.lvd1689m', img_size=1280),
    panoptic_head=dict(in_channels=1024))
custom_hooks = [
    dict(
        type='mmcropr.MaskAnnealingHook',
        start=[0, 2 / 6, 3 / 6, 4 / 6],
        end=[3000, 3 / 6, 4 / 6, 5 / 6])
]
