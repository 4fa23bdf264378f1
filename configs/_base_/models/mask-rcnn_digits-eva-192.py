# mask-rcnn_digits-eva.py for images of 192 px
_base_ = './mask-rcnn_digits-eva.py'
model = dict(
    backbone=dict(img_size=192, arch=dict(use_abs_pos_emb=False)),
    rpn_head=dict(anchor_generator=dict(scales=[4])))
