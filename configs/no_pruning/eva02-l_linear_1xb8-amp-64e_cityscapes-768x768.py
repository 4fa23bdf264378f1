_base_ = [
    '../_base_/models/linear.py',
    '../_base_/datasets/cityscapes_768x768.py',
    '../_base_/schedules/adamw_64e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(size=(768, 768), test_cfg=None),
    backbone=dict(
        arch='eva02_large_patch14_224.mim_m38m',
        img_size=768,
        patch_size=16,
        drop_path_rate=0.2),
    decode_head=dict(
        in_channels=1024,
        num_classes=19,
        # As timm starts the head of EVA-02: 0.001 of the usual
        init_cfg=dict(
            type='TruncNormal', std=2e-5, override=dict(name='conv_seg'))),
    test_cfg=dict(mode='slide', crop_size=(768, 768), stride=(512, 512)))
