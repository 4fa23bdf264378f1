# Scenes of real handwritten digits in photographs, among pieces of digits
_base_ = './digits-scenes_96x96.py'
data_root = 'data/digits_photos'
data_command = (
    'python tools/dataset_converters/digits_scenes.py data/digits_photos '
    '--background photos --num-train 3000')
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomResize',
        scale=(192, 192),
        ratio_range=(1.0, 1.25),
        keep_ratio=True),
    dict(type='RandomCrop', crop_size=(192, 192)),
    dict(type='PackSegInputs')
]
train_dataloader = dict(
    dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='IoUMetric', iou_metrics=['mIoU']),
    dict(type='mmcropr.KeptForeground')
]
test_evaluator = val_evaluator
