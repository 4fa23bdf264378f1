_base_ = '../no_pruning/mask-rcnn_vit-b_8xb8-amp-184k_coco-1024.py'
model = dict(backbone=dict(reducer=dict(type='mmcropr.ATS', tpr=0.97)))
