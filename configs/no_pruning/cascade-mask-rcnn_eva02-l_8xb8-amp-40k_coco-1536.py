_base_ = [
    '../_base_/models/cascade-mask-rcnn_eva02-l.py',
    '../_base_/datasets/coco-instances_1536x1536.py',
    '../_base_/schedules/adamw_coco_40k.py',
    '../_base_/det_runtime.py',
]
custom_hooks = [dict(type='EMAHook', momentum=1e-4)]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=5000))
log_processor = dict(by_epoch=False)
# Objects365 -> COCO: a checkpoint of EVA-02, by
# tools/model_converters/eva02_det.py; None starts from timm's MIM weights
load_from = None
