_base_ = '../no_pruning/mask-rcnn_digits-eva_1xb16-6e_digits-scenes-96x96.py'
model = dict(
    backbone=dict(
        reducer=dict(type='mmcropr.Random', keep=[72, 24], modules=[0, 1])))
