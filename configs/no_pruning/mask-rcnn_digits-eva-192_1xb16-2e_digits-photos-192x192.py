# Fine-tuning of the model without pruning, the same for every method
_base_ = [
    '../_base_/models/mask-rcnn_digits-eva-192.py',
    '../_base_/datasets/digits-photos-instances_192x192.py',
    '../_base_/schedules/adamw_digits-finetune_8e.py',
    '../_base_/det_runtime.py',
]
start_command = ('python tools/train.py configs/no_pruning/'
                 'mask-rcnn_digits-eva-192_1xb16-8e_digits-photos-192x192.py')
start = 'work_dirs/mask-rcnn_digits-eva-192_1xb16-8e_digits-photos-192x192'
model = dict(
    init_cfg=dict(type='Pretrained', checkpoint=f'{start}/epoch_8.pth'))
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = 2
train_cfg = dict(max_epochs=2, val_interval=2)
