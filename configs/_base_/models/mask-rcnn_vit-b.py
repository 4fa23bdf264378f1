# Mask R-CNN on ViT-B (MAE) as ViTDet has it (Li et al., ECCV 2022), all
# attention global and no relative positions, without token reduction
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'
norm_cfg = dict(type='mmcropr.LN2d', requires_grad=True, eps=1e-6)
model = dict(
    data_preprocessor=dict(
        # A square, in evaluation too; boxes are clipped to the image inside
        pad_size_divisor=1024),
    backbone=dict(
        _delete_=True,
        type='mmcropr.CroprViT',
        arch='vit_base_patch16_224.mae',
        img_size=1024,
        drop_path_rate=0.1,
        out_type='tokens',
        pretrained=True),
    neck=[
        dict(type='mmcropr.LLFNeck'),
        dict(
            type='mmcropr.SimpleFPN',
            in_channels=768,
            out_channels=256,
            num_outs=5)
    ],
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(
            type='Shared4Conv1FCBBoxHead',
            conv_out_channels=256,
            norm_cfg=norm_cfg),
        mask_head=dict(norm_cfg=norm_cfg)))
