_base_ = '../no_pruning/eomt_dinov3-l_4xb4-amp-12e_coco-panoptic-1280.py'
detector = _base_.model
detector.backbone.reducer = dict(
    type='mmcropr.Cropr', tpr=0.9, num_queries='image')
model = dict(
    _delete_=True,
    type='mmcropr.CroprDetector',
    detector=detector,
    auxiliary_head=dict(type='mmcropr.CroprMultiLabelHead'))
