# The start of the comparison, from what segmentation has learned
_base_ = [
    '../_base_/models/mask-rcnn_digits-eva-192.py',
    '../_base_/datasets/digits-photos-instances_192x192.py',
    '../_base_/schedules/adamw_digits_8e.py',
    '../_base_/det_runtime.py',
]
start_command = ('python tools/train.py configs/no_pruning/'
                 'digits-eva-192_linear_1xb16-3e_digits-photos-192x192.py')
start = 'work_dirs/digits-eva-192_linear_1xb16-3e_digits-photos-192x192'
model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint=f'{start}/epoch_3.pth',
            prefix='backbone.')))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = 5
train_cfg = dict(max_epochs=5, val_interval=5)
