# EoMT from DINOv3 weights
_base_ = './eomt_12e.py'
optim_wrapper = dict(
    optimizer=dict(lr=2e-4), paramwise_cfg=dict(full_rate_blocks=4))
param_scheduler = _base_.param_scheduler
param_scheduler[0].update(warm_up_new=2000, warm_up_pretrained=3000)
