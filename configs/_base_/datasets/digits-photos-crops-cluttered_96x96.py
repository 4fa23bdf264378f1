# More small scenes, with as many pieces of digits as digits-photos_192x192.py
# has, for where training on digits-photos-crops_96x96.py ends
_base_ = './digits-scenes_96x96.py'
data_root = 'data/digits_photos_cluttered'
data_command = (
    'python tools/dataset_converters/digits_scenes.py '
    'data/digits_photos_cluttered --background photos --size 96 96 '
    '--digits 1 2 --num-train 12000 --num-val 8 --seed 1')
train_pipeline = _base_.train_pipeline
train_pipeline[2].ratio_range = (0.85, 1.2)
train_dataloader = dict(
    batch_size=16, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root='data/digits_photos'))
test_dataloader = val_dataloader
