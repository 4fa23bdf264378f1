_base_ = './adamw_digits-finetune_6e.py'
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = 4
train_cfg = dict(max_epochs=4, val_interval=4)
