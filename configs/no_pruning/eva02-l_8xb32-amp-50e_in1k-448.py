_base_ = [
    '../_base_/models/eva02-l_cls.py',
    '../_base_/datasets/imagenet_448x448.py',
    '../_base_/schedules/adamw_imagenet_50e.py',
    '../_base_/cls_runtime.py',
]
optim_wrapper = dict(optimizer=dict(lr=1e-3))  # batch 256
param_scheduler = _base_.param_scheduler
param_scheduler[1].eta_min_ratio = 1e-6 / 1e-3
auto_scale_lr = dict(base_batch_size=256)
