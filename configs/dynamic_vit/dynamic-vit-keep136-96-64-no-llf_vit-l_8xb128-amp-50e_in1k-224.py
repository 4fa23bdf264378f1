# Without a teacher (docs/en/advanced_guides/compared_methods.md adds one)
_base_ = '../no_pruning/vit-l_8xb128-amp-50e_in1k-224.py'
model = dict(
    backbone=dict(
        fuse_at=None,
        reducer=dict(
            type='mmcropr.DynamicViT', keep=[136, 96, 64], modules=[5, 11,
                                                                    17])),
    head=dict(type='mmcropr.DynamicViTClsHead'))
