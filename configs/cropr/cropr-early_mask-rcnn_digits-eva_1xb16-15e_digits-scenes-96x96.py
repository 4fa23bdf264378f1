# Most patches leave after the first two of six blocks
_base_ = [
    '../_base_/models/mask-rcnn_digits-eva.py',
    '../_base_/datasets/digits-instances_96x96.py',
    '../_base_/schedules/adamw_digits_15e.py',
    '../_base_/det_runtime.py',
]
detector = _base_.model
detector.backbone.reducer = dict(
    type='mmcropr.Cropr', keep=[72, 24], modules=[0, 1], num_queries=1)
model = dict(
    _delete_=True,
    type='mmcropr.CroprDetector',
    detector=detector,
    auxiliary_head=dict(
        type='mmcropr.CroprMultiLabelHead',
        in_channels=96,
        num_classes=10,
        num_modules=2))
