_base_ = './vit-l_8xb128-amp-50e_in1k-224.py'
model = dict(
    backbone=dict(arch='vit_base_patch16_224.mae'),
    head=dict(in_channels=768))
