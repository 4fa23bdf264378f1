_base_ = [
    '../_base_/models/vit-l_cls.py',
    '../_base_/datasets/imagenet_224x224.py',
    '../_base_/schedules/adamw_imagenet_50e.py',
    '../_base_/cls_runtime.py',
]
model = dict(backbone=dict(arch='vit_base_patch16_224.mae'))
