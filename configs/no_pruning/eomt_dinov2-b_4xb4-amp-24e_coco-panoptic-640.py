_base_ = [
    '../_base_/models/eomt.py',
    '../_base_/datasets/coco-panoptic_640x640.py',
    '../_base_/schedules/eomt_12e.py',
    '../_base_/det_runtime.py',
]
model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(
        arch='vit_base_patch14_reg4_dinov2.lvd142m', img_size=640, fuse_at=-3),
    panoptic_head=dict(in_channels=768, num_blocks=3))
train_cfg = dict(max_epochs=24)
custom_hooks = [
    dict(
        type='mmcropr.MaskAnnealingHook',
        start=[1 / 6, 5 / 12, 2 / 3],
        end=[1 / 3, 7 / 12, 5 / 6])
]
