# ADE20k panoptic in the format that mmdet's ade20k2coco.py makes, with the
# augmentation of coco-panoptic_640x640.py and photometric distortion
_base_ = './coco-panoptic_640x640.py'
dataset_type = 'ADE20KPanopticDataset'
data_root = 'data/ADEChallengeData2016/'
data_command = (
    'get ADE20k (ADEChallengeData2016) and its instance annotations under '
    "data/, and run mmdet's tools/dataset_converters/ade20k2coco.py")
train_pipeline = _base_.train_pipeline
# Hue by up to 18 degrees: OpenCV counts in steps of 2
train_pipeline.insert(2, dict(type='PhotoMetricDistortion', hue_delta=9))
train_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='ade20k_panoptic_train.json',
        data_prefix=dict(img='images/training/', seg='ade20k_panoptic_train/'),
        pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='ade20k_panoptic_val.json',
        data_prefix=dict(img='images/validation/',
                         seg='ade20k_panoptic_val/')))
test_dataloader = val_dataloader
val_evaluator = dict(
    ann_file=data_root + 'ade20k_panoptic_val.json',
    seg_prefix=data_root + 'ade20k_panoptic_val/')
test_evaluator = val_evaluator
