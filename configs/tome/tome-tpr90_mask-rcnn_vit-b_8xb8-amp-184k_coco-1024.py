# No more than half of the patches can merge at once, so not 97 %
_base_ = '../no_pruning/mask-rcnn_vit-b_8xb8-amp-184k_coco-1024.py'
model = dict(backbone=dict(reducer=dict(type='mmcropr.ToMe', tpr=0.9)))
