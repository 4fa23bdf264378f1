# EoMT from DINOv2 weights, 16 images per iteration
optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=0.01),
    constructor='mmcropr.EoMTOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.8))
param_scheduler = [
    dict(
        type='mmcropr.TwoStagePolyLR',
        warm_up_new=500,
        warm_up_pretrained=1000,
        power=0.9,
        by_epoch=False)
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)
val_cfg = dict(type='ValLoop', fp16=True)
test_cfg = dict(type='TestLoop', fp16=True)
auto_scale_lr = dict(enable=False, base_batch_size=16)
