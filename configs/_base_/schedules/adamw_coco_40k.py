# EVA-02's fine-tuning of its Objects365 detector on COCO: batch 64, constant
# learning rate after the warm-up; weights are averaged (EMAHook of the config)
# and all of them decay, norms and position embeddings too.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=4e-5, weight_decay=0.1),
    constructor='mmcropr.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.8))
param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.001, begin=0, end=400, by_epoch=False)
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=40000, val_interval=5000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(enable=False, base_batch_size=64)
