# Cascade Mask R-CNN on EVA-02-L as EVA-02's detectors have it (Fang et al.,
# EVA-02, 2023), without class token and final norm, all attention global, and
# without token reduction
_base_ = 'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py'
norm_cfg = dict(type='mmcropr.LN2d', requires_grad=True, eps=1e-6)
box_head = dict(
    type='Shared4Conv1FCBBoxHead', conv_out_channels=256, norm_cfg=norm_cfg)
model = dict(
    data_preprocessor=dict(
        pad_size_divisor=32,
        batch_augments=[
            dict(type='BatchFixedSizePad', size=(1536, 1536), pad_mask=True)
        ]),
    backbone=dict(
        _delete_=True,
        type='mmcropr.CroprViT',
        arch=dict(
            name='eva02_large_patch14_224.mim_m38m',
            class_token=False,
            use_post_transformer_norm=False),
        img_size=1536,
        patch_size=16,
        drop_path_rate=0.3,
        with_cp=True,
        out_type='tokens',
        pretrained=True),
    neck=[
        dict(type='mmcropr.LLFNeck'),
        dict(
            type='mmcropr.SimpleFPN',
            in_channels=1024,
            out_channels=256,
            num_outs=5)
    ],
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=[
            dict(
                bbox_coder=dict(
                    type='DeltaXYWHBBoxCoder',
                    target_means=[0., 0., 0., 0.],
                    target_stds=stds),
                in_channels=256,
                fc_out_channels=1024,
                roi_feat_size=7,
                num_classes=80,
                reg_class_agnostic=True,
                loss_cls=dict(
                    type='CrossEntropyLoss',
                    use_sigmoid=False,
                    loss_weight=1.0),
                loss_bbox=dict(type='SmoothL1Loss', beta=1.0, loss_weight=1.0),
                **box_head) for stds in ([0.1, 0.1, 0.2, 0.2],
                                         [0.05, 0.05, 0.1, 0.1],
                                         [0.033, 0.033, 0.067, 0.067])
        ],
        mask_head=dict(norm_cfg=norm_cfg)))
