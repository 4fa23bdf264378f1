# The start of rows that go by the attention of the class token: it is what
# this one classifies by, so it is trained; else as that of the others
_base_ = [
    '../_base_/models/digits-eva-192_cls.py',
    '../_base_/datasets/digits-photos-classes_192x192.py',
    '../_base_/schedules/adamw_digits_8e.py',
    '../_base_/cls_runtime.py',
]
start_command = ('python tools/train.py configs/no_pruning/'
                 'digits-eva-192_linear_1xb16-3e_digits-photos-192x192.py')
start = 'work_dirs/digits-eva-192_linear_1xb16-3e_digits-photos-192x192'
model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint=f'{start}/epoch_3.pth',
            prefix='backbone.')),
    neck=dict(pool='cls'))
optim_wrapper = dict(optimizer=dict(lr=5e-4))
