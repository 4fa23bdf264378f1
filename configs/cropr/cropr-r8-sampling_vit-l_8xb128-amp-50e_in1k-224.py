# Ablation of the paper: patches are drawn from the attention, not Top-K
_base_ = './cropr-r8_vit-l_8xb128-amp-50e_in1k-224.py'
model = dict(backbone=dict(reducer=dict(selection='sample')))
