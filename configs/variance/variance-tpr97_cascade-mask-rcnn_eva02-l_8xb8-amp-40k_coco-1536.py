_base_ = '../no_pruning/cascade-mask-rcnn_eva02-l_8xb8-amp-40k_coco-1536.py'
model = dict(backbone=dict(reducer=dict(type='mmcropr.Variance', tpr=0.97)))
