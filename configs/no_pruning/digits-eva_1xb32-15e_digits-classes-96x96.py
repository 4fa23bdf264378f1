_base_ = [
    '../_base_/models/digits-eva_cls.py',
    '../_base_/datasets/digits-classes_96x96.py',
    '../_base_/schedules/adamw_digits_15e.py',
    '../_base_/cls_runtime.py',
]
