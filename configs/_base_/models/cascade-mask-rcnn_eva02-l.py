# Cascade Mask R-CNN on EVA-02-L as EVA-02's detectors have it (Fang et al.,
# EVA-02, 2023), without class token and final norm, all attention global,
# and without token reduction. The losses are detectron2's: L1 for boxes, and
# every stage counts the same. There the features take a third of each
# stage's gradient; here a stage weighs a third, which is the same to AdamW,
# for it ignores the scale of a head's own gradient. Left as mmdet has it:
# each stage samples its boxes anew, and has a mask head (there is one, of
# the first stage's boxes).
_base_ = 'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py'
norm_cfg = dict(type='mmcropr.LN2d', requires_grad=True, eps=1e-6)
box_head = dict(
    type='Shared4Conv1FCBBoxHead', conv_out_channels=256, norm_cfg=norm_cfg)
model = dict(
    data_preprocessor=dict(
        # A square, in evaluation too; boxes are clipped to the image inside
        pad_size_divisor=1536),
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
    rpn_head=dict(
        num_convs=2,
        loss_bbox=dict(_delete_=True, type='L1Loss', loss_weight=1.0)),
    roi_head=dict(
        stage_loss_weights=[1 / 3] * 3,
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
                loss_bbox=dict(type='L1Loss', loss_weight=1.0),
                **box_head)
            for stds in ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1],
                         [0.033, 0.033, 0.067, 0.067])
        ],
        mask_head=dict(norm_cfg=norm_cfg)),
    train_cfg=dict(rpn_proposal=dict(max_per_img=1000)))
