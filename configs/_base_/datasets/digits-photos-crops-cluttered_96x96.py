# More small scenes, with as many pieces of digits as digits-photos_192x192.py
# has, where that of digits-photos-crops_96x96.py ends
_base_ = './digits-photos-crops_96x96.py'
data_root = 'data/digits_photos_cluttered'
data_command = (
    'python tools/dataset_converters/digits_scenes.py '
    'data/digits_photos_cluttered --background photos --size 96 96 '
    '--digits 1 2 --num-train 12000 --num-val 8 --seed 1')
train_dataloader = dict(dataset=dict(data_root=data_root))
