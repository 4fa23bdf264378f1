# Scenes of one real handwritten digit each, made by the data_command
dataset_type = 'CustomDataset'
data_root = 'data/digits_classes'
data_command = (
    'python tools/dataset_converters/digits_scenes.py data/digits_classes '
    '--digits 1 1 --digit-size 28 40')
classes = [
    'zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight',
    'nine'
]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomCrop', crop_size=96, padding=8),
    dict(type='PackInputs')
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        classes=classes,
        ann_file='meta/train.txt',
        data_prefix='images/train',
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        classes=classes,
        ann_file='meta/val.txt',
        data_prefix='images/val',
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, ))
test_evaluator = val_evaluator
