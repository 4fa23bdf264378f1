# Copyright (c) mmcropr contributors.
# Matching and points as published
TRAIN_CFG = dict(
    num_points=12544,
    oversample_ratio=3.0,
    importance_sample_ratio=0.75,
    assigner=dict(
        type='mmdet.HungarianAssigner',
        match_costs=[
            dict(type='mmdet.ClassificationCost', weight=2.0),
            dict(
                type='mmdet.CrossEntropyLossCost',
                weight=5.0,
                use_sigmoid=True),
            dict(type='mmdet.DiceCost', weight=5.0, pred_act=True, eps=1.0)
        ]),
    sampler=dict(type='mmdet.MaskPseudoSampler'))
