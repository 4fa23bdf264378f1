_base_ = '../no_pruning/mask-rcnn_vit-b_8xb8-amp-184k_coco-1024.py'
detector = _base_.model
detector.backbone.reducer = dict(
    type='mmcropr.Cropr', tpr=0.97, num_queries='image')
model = dict(
    _delete_=True,
    type='mmcropr.CroprDetector',
    detector=detector,
    auxiliary_head=dict(type='mmcropr.CroprMultiLabelHead'))
