# EVA-02-L of ImageNet-22k and -1k at 448 px, without token reduction. Its norm
# is one of means already.
_base_ = './vit-l_cls.py'
model = dict(
    data_preprocessor=dict(
        mean=[122.77, 116.75, 104.09], std=[68.5, 66.63, 70.32]),
    backbone=dict(
        arch='eva02_large_patch14_448.mim_m38m_ft_in22k_in1k',
        img_size=448,
        pretrained=True),
    head=dict(init_cfg=dict(std=2e-5)))  # 0.001 of the usual, as in timm
