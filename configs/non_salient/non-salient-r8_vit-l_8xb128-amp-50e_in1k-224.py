_base_ = '../cropr/cropr-r8_vit-l_8xb128-amp-50e_in1k-224.py'
model = dict(backbone=dict(reducer=dict(type='mmcropr.NonSalient')))
