_base_ = [
    '../_base_/models/eomt.py',
    '../_base_/datasets/ade20k-panoptic_640x640.py',
    '../_base_/schedules/eomt_12e.py',
    '../_base_/det_runtime.py',
]
model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(arch='vit_large_patch14_reg4_dinov2.lvd142m', img_size=640),
    panoptic_head=dict(
        in_channels=1024, num_things_classes=100, num_stuff_classes=50),
    panoptic_fusion_head=dict(num_things_classes=100, num_stuff_classes=50))
train_cfg = dict(max_epochs=31)
custom_hooks = [
    dict(
        type='mmcropr.MaskAnnealingHook',
        start=[6520, 13040, 19560, 26080],
        end=[13040, 19560, 26080, 32600])
]
