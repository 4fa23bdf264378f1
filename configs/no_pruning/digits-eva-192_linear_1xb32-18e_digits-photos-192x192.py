# The start of the comparison: trained on crops, a quarter of an image, that
# show digits; from what scenes without photographs have taught
_base_ = [
    '../_base_/models/digits-eva_192.py',
    '../_base_/datasets/digits-photos_192x192.py',
    '../_base_/schedules/adamw_digits_15e.py',
    '../_base_/default_runtime.py',
]
start_command = (
    'python tools/train.py configs/no_pruning/'
    'digits-eva_linear_1xb32-15e_digits-scenes-96x96.py')
start = 'work_dirs/digits-eva_linear_1xb32-15e_digits-scenes-96x96'
model = dict(
    init_cfg=dict(type='Pretrained', checkpoint=f'{start}/epoch_15.pth'),
    data_preprocessor=dict(size=(96, 96)))
train_pipeline = _base_.train_pipeline
train_pipeline[2].ratio_range = (0.8, 1.25)
train_pipeline[3] = dict(
    type='RandomCrop', crop_size=(96, 96), cat_max_ratio=0.93)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=1.5e-3))
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = 18
train_cfg = dict(max_epochs=18, val_interval=3)
