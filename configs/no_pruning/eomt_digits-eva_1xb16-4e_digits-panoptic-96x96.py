# The same fine-tuning as with pruning, for a fair comparison; without masked
# attention, which is gone from the weights that it starts from
_base_ = [
    '../_base_/models/eomt_digits-eva.py',
    '../_base_/datasets/digits-panoptic_96x96.py',
    '../_base_/schedules/adamw_digits-finetune_4e.py',
    '../_base_/det_runtime.py',
]
start_command = (
    'python tools/train.py configs/no_pruning/'
    'eomt_digits-eva_1xb16-15e_digits-panoptic-96x96.py')
start = 'work_dirs/eomt_digits-eva_1xb16-15e_digits-panoptic-96x96'
model = dict(
    init_cfg=dict(type='Pretrained', checkpoint=f'{start}/epoch_15.pth'))
