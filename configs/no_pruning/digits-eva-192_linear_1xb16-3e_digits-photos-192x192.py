# The start of the comparison, last of three steps: scenes of the full size
_base_ = [
    '../_base_/models/digits-eva-192.py',
    '../_base_/datasets/digits-photos_192x192.py',
    '../_base_/schedules/adamw_digits_8e.py',
    '../_base_/default_runtime.py',
]
start_command = (
    'python tools/train.py configs/no_pruning/'
    'digits-eva-192_linear_1xb16-10e_digits-photos-cluttered-96x96.py')
start = ('work_dirs/'
         'digits-eva-192_linear_1xb16-10e_digits-photos-cluttered-96x96')
model = dict(
    init_cfg=dict(type='Pretrained', checkpoint=f'{start}/epoch_10.pth'))
train_dataloader = dict(batch_size=16)
optim_wrapper = dict(optimizer=dict(lr=8e-4))
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = 3
train_cfg = dict(max_epochs=3, val_interval=1)
