# One query per module and image, which learns what classes there are, as in
# detection: not as published, and trains at the cost of random pruning
_base_ = './cropr-r40_eva02-l_linear_1xb8-amp-64e_ade20k-512x512.py'
model = dict(
    backbone=dict(reducer=dict(num_queries='image')),
    auxiliary_head=dict(type='mmcropr.CroprMultiLabelHead'))
