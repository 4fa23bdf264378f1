# Token fusion of the paper's table:
# learned queries read kept and pruned tokens
_base_ = './cropr-tpr78_digits-eva_linear_1xb32-4e_digits-scenes-96x96.py'
model = dict(
    neck=dict(
        _delete_=True,
        type='mmcropr.CrossAttnConcatNeck',
        in_channels=96,
        num_heads=3,
        num_queries=(12, 12)))
