# Fine-tuning of the model without pruning, the same for every method
_base_ = [
    '../_base_/models/digits-eva_cls.py',
    '../_base_/datasets/digits-classes_96x96.py',
    '../_base_/schedules/adamw_digits-finetune_8e.py',
    '../_base_/cls_runtime.py',
]
start_command = ('python tools/train.py configs/no_pruning/'
                 'digits-eva_1xb32-15e_digits-classes-96x96.py')
start = 'work_dirs/digits-eva_1xb32-15e_digits-classes-96x96'
model = dict(
    init_cfg=dict(type='Pretrained', checkpoint=f'{start}/epoch_15.pth'))
