# One real handwritten digit each in photographs, among pieces of digits
_base_ = './digits-classes_96x96.py'
data_root = 'data/digits_photos_classes'
data_command = ('python tools/dataset_converters/digits_scenes.py '
                'data/digits_photos_classes --background photos --digits 1 1 '
                '--num-train 3000')
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomCrop', crop_size=192, padding=16, padding_mode='reflect'),
    dict(type='PackInputs')
]
train_dataloader = dict(
    dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
# Label maps of the same scenes say what is kept of the digit
val_evaluator = [
    dict(type='Accuracy', topk=(1, )),
    dict(type='mmcropr.KeptForeground', seg_prefix=f'{data_root}/labels/val')
]
test_evaluator = val_evaluator
