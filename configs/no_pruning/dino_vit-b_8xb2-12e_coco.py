# mmdet's own DINO config with another backbone and neck
_base_ = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'
custom_imports = dict(imports=['mmcropr'], allow_failed_imports=False)
default_hooks = dict(
    model_check=dict(type='mmcropr.ModelCheckHook'),
    token_log=dict(type='mmcropr.TokenLogHook'),
    finite_loss=dict(type='mmcropr.FiniteLossHook'))
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmcropr.CroprViT',
        arch='vit_base_patch16_224.mae',
        img_size=(800, 1344),
        drop_path_rate=0.1,
        out_type='tokens',
        pretrained=True),
    neck=[
        dict(type='mmcropr.LLFNeck'),
        dict(
            type='mmcropr.SimpleFPN',
            in_channels=768,
            strides=[8, 16, 32],
            num_outs=4)
    ])
# Pretrained weights learn slower, the reducers of the backbone do not
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict({'backbone.vit': dict(lr_mult=0.1)}, _delete_=True)))
