# Token fusion of the paper's table:
# kept and pruned tokens attend to each other in one more block
_base_ = './cropr-tpr78_digits-eva_linear_1xb32-4e_digits-scenes-96x96.py'
model = dict(
    neck=dict(
        _delete_=True,
        type='mmcropr.MHSAConcatNeck',
        in_channels=96,
        num_heads=3))
