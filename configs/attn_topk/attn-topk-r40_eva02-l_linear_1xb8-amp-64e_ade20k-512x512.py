_base_ = [
    '../_base_/models/eva02-l.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/adamw_64e.py',
    '../_base_/default_runtime.py',
]
optim_wrapper = dict(type='AmpOptimWrapper')
model = dict(
    backbone=dict(
        reducer=dict(type='mmcropr.AttnTopK', rate=40)))
