# From what segmentation has learned
_base_ = [
    '../_base_/models/digits-eva_cls.py',
    '../_base_/datasets/digits-classes_96x96.py',
    '../_base_/schedules/adamw_digits_15e.py',
    '../_base_/cls_runtime.py',
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
optim_wrapper = dict(optimizer=dict(lr=5e-4))
