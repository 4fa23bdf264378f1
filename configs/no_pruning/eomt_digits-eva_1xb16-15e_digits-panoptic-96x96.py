# From scratch; masked attention goes as in the published runs
_base_ = [
    '../_base_/models/eomt_digits-eva.py',
    '../_base_/datasets/digits-panoptic_96x96.py',
    '../_base_/schedules/adamw_digits_15e.py',
    '../_base_/det_runtime.py',
]
custom_hooks = [
    dict(
        type='mmcropr.MaskAnnealingHook', start=[1 / 6, 2 / 6],
        end=[3 / 6, 4 / 6])
]
