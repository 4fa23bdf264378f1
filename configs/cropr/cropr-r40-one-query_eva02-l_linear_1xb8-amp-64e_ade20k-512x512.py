# One query per module and image, which learns what classes there are, as in
# detection, and faster than the rest: not as published, and a step costs
# nearly what it does with random pruning
_base_ = './cropr-r40_eva02-l_linear_1xb8-amp-64e_ade20k-512x512.py'
model = dict(
    backbone=dict(reducer=dict(num_queries='image')),
    auxiliary_head=dict(type='mmcropr.CroprMultiLabelHead'))
fast = dict(lr_mult=3.)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(queries=fast, aggregators=fast, fcs=fast)))
