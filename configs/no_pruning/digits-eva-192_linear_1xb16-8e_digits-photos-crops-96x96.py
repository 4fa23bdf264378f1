# The start of the comparison, first of three steps: small scenes, from what
# scenes without photographs have taught
_base_ = [
    '../_base_/models/digits-eva-192.py',
    '../_base_/datasets/digits-photos-crops_96x96.py',
    '../_base_/schedules/adamw_digits_8e.py',
    '../_base_/default_runtime.py',
]
start_command = ('python tools/train.py configs/no_pruning/'
                 'digits-eva_linear_1xb32-15e_digits-scenes-96x96.py')
start = 'work_dirs/digits-eva_linear_1xb32-15e_digits-scenes-96x96'
model = dict(
    init_cfg=dict(type='Pretrained', checkpoint=f'{start}/epoch_15.pth'),
    data_preprocessor=dict(size=(96, 96)))
optim_wrapper = dict(optimizer=dict(lr=1.5e-3))
train_cfg = dict(max_epochs=8, val_interval=2)
