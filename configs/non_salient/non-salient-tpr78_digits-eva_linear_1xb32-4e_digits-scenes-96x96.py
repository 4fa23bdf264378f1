_base_ = [
    '../cropr/cropr-tpr78_digits-eva_linear_1xb32-4e_digits-scenes-96x96.py'
]
model = dict(backbone=dict(reducer=dict(type='mmcropr.NonSalient')))
