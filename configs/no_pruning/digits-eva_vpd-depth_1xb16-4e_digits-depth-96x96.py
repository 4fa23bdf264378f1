# From the ViT of the segmentor; the same for every method
_base_ = [
    '../_base_/models/digits-eva_vpd-depth.py',
    '../_base_/datasets/digits-depth_96x96.py',
    '../_base_/schedules/adamw_digits-finetune_4e.py',
    '../_base_/default_runtime.py',
]
start_command = ('python tools/train.py configs/no_pruning/'
                 'digits-eva_linear_1xb32-15e_digits-scenes-96x96.py')
start = 'work_dirs/digits-eva_linear_1xb32-15e_digits-scenes-96x96'
model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint=f'{start}/epoch_15.pth',
            prefix='backbone.')))
train_dataloader = dict(batch_size=16)
custom_hooks = [
    dict(type='mmcropr.PruningCurriculumHook', by_epoch=False),
    dict(type='mmcropr.PruningMapHook'),
]
