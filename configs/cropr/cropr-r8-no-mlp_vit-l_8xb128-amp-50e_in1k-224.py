# Ablation of the paper: aggregators without their MLP
_base_ = './cropr-r8_vit-l_8xb128-amp-50e_in1k-224.py'
model = dict(head=dict(mlp_ratio=0.))
