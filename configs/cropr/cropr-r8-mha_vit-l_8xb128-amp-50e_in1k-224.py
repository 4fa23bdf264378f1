# Ablation of the paper: multi-head cross-attention with projections
_base_ = './cropr-r8_vit-l_8xb128-amp-50e_in1k-224.py'
model = dict(
    backbone=dict(reducer=dict(num_heads=16)), head=dict(num_heads=16))
