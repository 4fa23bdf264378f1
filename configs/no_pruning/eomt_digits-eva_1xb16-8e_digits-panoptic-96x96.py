# From the ViT of the segmentor, which learns more slowly than what is new; the
# pruning rate rises in the first half. The same for every method
_base_ = [
    '../_base_/models/eomt_digits-eva.py',
    '../_base_/datasets/digits-panoptic_96x96.py',
    '../_base_/schedules/adamw_digits-finetune_8e.py',
    '../_base_/det_runtime.py',
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
custom_hooks = [
    dict(type='mmcropr.PruningCurriculumHook', by_epoch=False),
    dict(
        type='mmcropr.MaskAnnealingHook',
        start=[1 / 6, 2 / 6],
        end=[3 / 6, 4 / 6])
]
