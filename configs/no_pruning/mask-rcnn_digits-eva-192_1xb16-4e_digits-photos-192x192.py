# Fine-tuning of the model without pruning, the same for every method
_base_ = [
    '../_base_/models/mask-rcnn_digits-eva-192.py',
    '../_base_/datasets/digits-photos-instances_192x192.py',
    '../_base_/schedules/adamw_digits-finetune_8e.py',
    '../_base_/det_runtime.py',
]
start_command = ('python tools/train.py configs/no_pruning/'
                 'mask-rcnn_digits-eva-192_1xb16-5e_digits-photos-192x192.py')
start = 'work_dirs/mask-rcnn_digits-eva-192_1xb16-5e_digits-photos-192x192'
model = dict(
    init_cfg=dict(type='Pretrained', checkpoint=f'{start}/epoch_5.pth'))
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = 4
train_cfg = dict(max_epochs=4, val_interval=4)
# Queries of a small ViT learn nothing at first, so what is new learns faster.
# Tokens leave from the beginning on, so that the blocks behind have time, too
fast = dict(lr_mult=3.)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys=dict(queries=fast, auxiliary_head=fast)))
custom_hooks = [
    dict(type='mmcropr.PruningCurriculumHook', by_epoch=False, share=0.2),
]
