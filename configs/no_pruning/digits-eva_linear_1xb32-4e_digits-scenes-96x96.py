# Fine-tuning of the model without pruning, the same for every method
_base_ = [
    '../_base_/models/digits-eva.py',
    '../_base_/datasets/digits-scenes_96x96.py',
    '../_base_/schedules/adamw_digits-finetune_4e.py',
    '../_base_/default_runtime.py',
]
start_command = ('python tools/train.py configs/no_pruning/'
                 'digits-eva_linear_1xb32-15e_digits-scenes-96x96.py')
start = 'work_dirs/digits-eva_linear_1xb32-15e_digits-scenes-96x96'
model = dict(
    init_cfg=dict(type='Pretrained', checkpoint=f'{start}/epoch_15.pth'))
custom_hooks = [
    dict(type='mmcropr.PruningCurriculumHook', share=0.),
    dict(type='mmcropr.PruningMapHook'),
]
