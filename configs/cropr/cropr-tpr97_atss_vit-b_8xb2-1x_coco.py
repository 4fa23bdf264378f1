_base_ = '../no_pruning/atss_vit-b_8xb2-1x_coco.py'
detector = _base_.model
detector.backbone.reducer = dict(
    type='mmcropr.Cropr', tpr=0.97, num_queries='image')
model = dict(
    _delete_=True,
    type='mmcropr.CroprDetector',
    detector=detector,
    auxiliary_head=dict(type='mmcropr.CroprMultiLabelHead'))
