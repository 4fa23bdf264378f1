# Fine-tuning of the model without pruning, the same for every method
_base_ = [
    '../_base_/models/digits-eva-192_cls.py',
    '../_base_/datasets/digits-photos-classes_192x192.py',
    '../_base_/schedules/adamw_digits-finetune_8e.py',
    '../_base_/cls_runtime.py',
]
start_command = ('python tools/train.py configs/no_pruning/'
                 'digits-eva-192_1xb32-8e_digits-photos-classes-192x192.py')
start = 'work_dirs/digits-eva-192_1xb32-8e_digits-photos-classes-192x192'
model = dict(
    init_cfg=dict(type='Pretrained', checkpoint=f'{start}/epoch_8.pth'))
train_dataloader = dict(batch_size=16)
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = 6
train_cfg = dict(max_epochs=6, val_interval=6)
# Queries of a small ViT learn nothing at first, so what is new learns faster.
# Tokens leave from the beginning on, so that the blocks behind have time, too
fast = dict(lr_mult=3.)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(queries=fast, aggregators=fast, fcs=fast)))
custom_hooks = [
    dict(type='mmcropr.PruningCurriculumHook', by_epoch=False, share=0.2),
]
