_base_ = [
    '../cropr/cropr-r30_digits-eva_linear_1xb32-15e_digits-scenes-96x96.py'
]
model = dict(backbone=dict(reducer=dict(type='mmcropr.NonSalient')))
