# Token fusion of the paper's table:
# pruned patches are classified where they leave
_base_ = './cropr-r40_eva02-l_linear_1xb8-amp-64e_ade20k-512x512.py'
model = dict(
    neck=dict(
        _delete_=True,
        type='mmcropr.DToPNeck',
        in_channels=1024,
        num_classes=150,
        num_modules=22),
    decode_head=dict(type='mmcropr.DToPHead'))
