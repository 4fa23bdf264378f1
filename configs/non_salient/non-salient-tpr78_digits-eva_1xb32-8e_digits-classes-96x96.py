_base_ = '../cropr/cropr-tpr78_digits-eva_1xb32-8e_digits-classes-96x96.py'
model = dict(backbone=dict(reducer=dict(type='mmcropr.NonSalient')))
