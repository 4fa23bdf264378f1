# Ablation of the paper: auxiliary losses reach the backbone
_base_ = './cropr-r8_vit-l_8xb128-amp-50e_in1k-224.py'
model = dict(backbone=dict(reducer=dict(stop_gradient=False)))
