# Token fusion of the paper's table:
# pruned patches are classified where they leave
_base_ = './cropr-tpr78_digits-eva_linear_1xb32-4e_digits-scenes-96x96.py'
model = dict(
    neck=dict(
        _delete_=True,
        type='mmcropr.DToPNeck',
        in_channels=96,
        num_classes=11,
        num_modules=3),
    decode_head=dict(type='mmcropr.DToPHead'))
