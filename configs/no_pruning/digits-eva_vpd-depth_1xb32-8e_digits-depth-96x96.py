_base_ = [
    '../_base_/models/digits-eva_vpd-depth.py',
    '../_base_/datasets/digits-depth_96x96.py',
    '../_base_/schedules/adamw_digits_8e.py',
    '../_base_/default_runtime.py',
]
