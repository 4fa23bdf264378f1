_base_ = [
    '../_base_/models/mask-rcnn_digits-eva.py',
    '../_base_/datasets/digits-instances_96x96.py',
    '../_base_/schedules/adamw_digits_15e.py',
    '../_base_/det_runtime.py',
]
