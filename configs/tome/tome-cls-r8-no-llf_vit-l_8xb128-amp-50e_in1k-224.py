# With the class token, as in ToMe's own paper
_base_ = './tome-r8-no-llf_vit-l_8xb128-amp-50e_in1k-224.py'
model = dict(backbone=dict(pretrained=True), neck=dict(pool='cls'))
