# What is new, such as queries and auxiliary heads, learns faster than the rest
_base_ = './adamw_digits-finetune_6e.py'
optim_wrapper = dict(
    constructor='mmcropr.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.65),
    optimizer=dict(lr=2e-3))
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = 8
train_cfg = dict(max_epochs=8, val_interval=8)
