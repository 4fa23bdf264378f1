_base_ = [
    '../_base_/models/mask-rcnn_vit-b.py',
    '../_base_/datasets/coco-instances_1024x1024.py',
    '../_base_/schedules/adamw_coco_184k.py',
    '../_base_/det_runtime.py',
]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=5000))
log_processor = dict(by_epoch=False)
