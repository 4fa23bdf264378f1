# COCO instances with the augmentation of coco-panoptic_640x640.py
_base_ = './coco-panoptic_640x640.py'
dataset_type = 'CocoDataset'
load = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
train_pipeline = _base_.train_pipeline
train_pipeline[1] = load
test_pipeline = _base_.test_pipeline
test_pipeline[2] = load
train_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(_delete_=True, img='train2017/'),
        pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(_delete_=True, img='val2017/'),
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(
    _delete_=True,
    type='CocoMetric',
    ann_file=_base_.data_root + 'annotations/instances_val2017.json',
    metric=['segm'])
test_evaluator = val_evaluator
