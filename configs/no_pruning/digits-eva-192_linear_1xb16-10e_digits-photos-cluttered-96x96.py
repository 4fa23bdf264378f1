# The start of the comparison, second of three steps: more small scenes, and
# as many distractors as the large ones have
_base_ = [
    '../_base_/models/digits-eva-192.py',
    '../_base_/datasets/digits-photos-crops-cluttered_96x96.py',
    '../_base_/schedules/adamw_digits_8e.py',
    '../_base_/default_runtime.py',
]
start_command = ('python tools/train.py configs/no_pruning/'
                 'digits-eva-192_linear_1xb16-8e_digits-photos-crops-96x96.py')
start = 'work_dirs/digits-eva-192_linear_1xb16-8e_digits-photos-crops-96x96'
model = dict(
    init_cfg=dict(type='Pretrained', checkpoint=f'{start}/epoch_8.pth'),
    data_preprocessor=dict(size=(96, 96)))
optim_wrapper = dict(optimizer=dict(lr=1.5e-3))
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = 10
train_cfg = dict(max_epochs=10, val_interval=2)
