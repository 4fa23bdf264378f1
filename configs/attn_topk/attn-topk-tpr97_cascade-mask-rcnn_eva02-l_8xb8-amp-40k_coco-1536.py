_base_ = '../no_pruning/cascade-mask-rcnn_eva02-l_8xb8-amp-40k_coco-1536.py'
model = dict(
    backbone=dict(
        arch=dict(class_token=True),
        reducer=dict(type='mmcropr.AttnTopK', tpr=0.97)))
