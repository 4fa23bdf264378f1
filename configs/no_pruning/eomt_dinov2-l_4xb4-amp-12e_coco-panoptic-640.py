_base_ = [
    '../_base_/models/eomt.py',
    '../_base_/datasets/coco-panoptic_640x640.py',
    '../_base_/schedules/eomt_12e.py',
    '../_base_/det_runtime.py',
]
model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(arch='vit_large_patch14_reg4_dinov2.lvd142m', img_size=640),
    panoptic_head=dict(in_channels=1024))
custom_hooks = [
    dict(
        type='mmcropr.MaskAnnealingHook',
        start=[1 / 6, 2 / 6, 3 / 6, 4 / 6],
        end=[2 / 6, 3 / 6, 4 / 6, 5 / 6])
]
