# Token Cropr on ImageNet-1k: learning rate 1e-3 per 256 images, batch 1024
optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=4e-3, weight_decay=0.05),
    constructor='mmcropr.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.75,
        flat_decay_mult=0.,  # norms, biases and LayerScale, as timm has it
        custom_keys=dict(
            pos_embed=dict(decay_mult=0.), cls_token=dict(decay_mult=0.))))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-4,
        begin=0,
        end=5,
        by_epoch=True,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=1e-6 / 4e-3,  # of the rate of every layer
        begin=5,
        end=50,
        by_epoch=True,
        convert_to_iter_based=True)
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=50, val_interval=1)
# Evaluation in half precision too, as published (bfloat16 on a CPU)
val_cfg = dict(type='ValLoop', fp16=True)
test_cfg = dict(type='TestLoop', fp16=True)
auto_scale_lr = dict(enable=False, base_batch_size=1024)
