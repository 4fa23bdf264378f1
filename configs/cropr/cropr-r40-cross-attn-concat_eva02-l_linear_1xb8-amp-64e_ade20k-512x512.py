# Token fusion of the paper's table:
# learned queries read kept and pruned tokens
_base_ = './cropr-r40_eva02-l_linear_1xb8-amp-64e_ade20k-512x512.py'
model = dict(
    neck=dict(
        _delete_=True,
        type='mmcropr.CrossAttnConcatNeck',
        in_channels=1024,
        num_heads=16,
        num_queries=(32, 32)))
