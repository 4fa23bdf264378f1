# The same fine-tuning as with pruning, for a fair comparison
_base_ = [
    '../_base_/models/mask-rcnn_digits-eva.py',
    '../_base_/datasets/digits-instances_96x96.py',
    '../_base_/schedules/adamw_digits-finetune_6e.py',
    '../_base_/det_runtime.py',
]
start_command = ('python tools/train.py configs/no_pruning/'
                 'mask-rcnn_digits-eva_1xb16-15e_digits-scenes-96x96.py')
start = 'work_dirs/mask-rcnn_digits-eva_1xb16-15e_digits-scenes-96x96'
model = dict(
    init_cfg=dict(type='Pretrained', checkpoint=f'{start}/epoch_15.pth'))
