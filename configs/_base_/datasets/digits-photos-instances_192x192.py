# Scenes of digits-photos_192x192.py as COCO instances
_base_ = './digits-instances_96x96.py'
data_root = 'data/digits_photos'
data_command = (
    'python tools/dataset_converters/digits_scenes.py data/digits_photos '
    '--background photos --num-train 3000')
train_pipeline = _base_.train_pipeline
train_pipeline[2].scale = (192, 192)
train_pipeline[3].crop_size = (192, 192)
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = (192, 192)
train_dataloader = dict(
    dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = [
    dict(
        type='CocoMetric',
        ann_file=f'{data_root}/annotations/instances_val.json',
        metric=['bbox', 'segm']),
    dict(type='mmcropr.KeptForeground')
]
test_evaluator = val_evaluator
