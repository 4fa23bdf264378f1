# ViTDet's 100 epochs of COCO from MAE weights, batch 64. Norms and position
# embeddings do not decay; biases do.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.1),
    constructor='mmcropr.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.7,
        norm_decay_mult=0.,
        custom_keys=dict(pos_embed=dict(decay_mult=0.))))
param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.001, begin=0, end=250, by_epoch=False),
    dict(
        type='MultiStepLR',
        milestones=[163889, 177546],
        gamma=0.1,
        by_epoch=False)
]
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=184375, val_interval=10000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(enable=False, base_batch_size=64)
