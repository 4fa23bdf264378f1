# mmdet's own ATSS config with another backbone and neck, and AdamW for the ViT
_base_ = 'mmdet::atss/atss_r50_fpn_1x_coco.py'
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
        dict(type='mmcropr.SimpleFPN', in_channels=768, strides=[8, 16, 32])
    ])
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=0.1),
    constructor='mmcropr.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.7,
        norm_decay_mult=0.,
        custom_keys=dict(pos_embed=dict(decay_mult=0.))))
