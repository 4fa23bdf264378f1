_base_ = '../cropr/cropr-r40_eva02-l_linear_1xb8-amp-64e_ade20k-512x512.py'
model = dict(backbone=dict(reducer=dict(type='mmcropr.NonSalient')))
