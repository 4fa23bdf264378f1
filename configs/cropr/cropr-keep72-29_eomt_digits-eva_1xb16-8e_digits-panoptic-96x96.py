# 80 % of the patches leave after the second and third of six blocks, before
# the queries join
_base_ = '../no_pruning/eomt_digits-eva_1xb16-8e_digits-panoptic-96x96.py'
detector = _base_.model
detector.backbone.reducer = dict(
    type='mmcropr.Cropr',
    keep=[72, 29],
    modules=[1, 2],
    align=1,
    num_queries='image')
model = dict(
    _delete_=True,
    type='mmcropr.CroprDetector',
    detector=detector,
    auxiliary_head=dict(type='mmcropr.CroprMultiLabelHead'))
