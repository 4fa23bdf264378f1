# 80 % of the patches leave after the first two of six blocks
_base_ = '../no_pruning/eomt_digits-eva_1xb16-4e_digits-panoptic-96x96.py'
detector = _base_.model
detector.backbone.reducer = dict(
    type='mmcropr.Cropr',
    keep=[72, 29],
    modules=[0, 1],
    align=1,
    num_queries='image')
model = dict(
    _delete_=True,
    type='mmcropr.CroprDetector',
    detector=detector,
    auxiliary_head=dict(type='mmcropr.CroprMultiLabelHead'))
