# The scenes of digits-scenes_96x96.py with panoptic maps: digits are things,
# ground and clutter are stuff
_base_ = './digits-instances_96x96.py'
dataset_type = 'CocoPanopticDataset'
data_root = 'data/digits_scenes'
data_command = (
    'python tools/dataset_converters/digits_scenes.py data/digits_scenes')
thing_classes = _base_.metainfo.classes
stuff_classes = ('ground', 'clutter')
metainfo = dict(
    classes=thing_classes + stuff_classes,
    thing_classes=thing_classes,
    stuff_classes=stuff_classes,
    palette=_base_.metainfo.palette + [(60, 60, 60), (128, 128, 128)])
load = dict(type='mmcropr.LoadPanopticAnnotations')
train_pipeline = _base_.train_pipeline
train_pipeline[1] = load
train_pipeline[3].recompute_bbox = True
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 96), keep_ratio=True), load,
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                   'scale_factor'))
]
train_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/panoptic_train.json',
        data_prefix=dict(seg='panoptic/train'),
        pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/panoptic_val.json',
        data_prefix=dict(seg='panoptic/val'),
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = [
    dict(
        type='mmcropr.PanopticMetric',
        ann_file=f'{data_root}/annotations/panoptic_val.json',
        seg_prefix=f'{data_root}/panoptic/val'),
    dict(
        type='CocoMetric',
        ann_file=f'{data_root}/annotations/instances_val.json',
        metric=['segm']),
    dict(type='mmcropr.KeptForeground', seg_prefix=f'{data_root}/labels/val')
]
test_evaluator = val_evaluator
