_base_ = [
    '../_base_/models/eva02-l.py',
    '../_base_/datasets/cityscapes_768x768.py',
    '../_base_/schedules/adamw_64e.py',
    '../_base_/default_runtime.py',
]
optim_wrapper = dict(type='AmpOptimWrapper')
model = dict(
    data_preprocessor=dict(size=(768, 768), test_cfg=None),
    backbone=dict(
        img_size=768,
        reducer=dict(type='mmcropr.Cropr', rate=88, num_queries=2304)),
    auxiliary_head=dict(
        type='mmcropr.CroprSegHead',
        in_channels=1024,
        num_classes=19,
        num_modules=22),
    decode_head=dict(num_classes=19),
    test_cfg=dict(mode='slide', crop_size=(768, 768), stride=(512, 512)))
