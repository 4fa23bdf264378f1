# The last two blocks run on all tokens: some of the time for accuracy
_base_ = './cropr-r40_eva02-l_linear_1xb8-amp-64e_ade20k-512x512.py'
model = dict(backbone=dict(fuse_at=-2), auxiliary_head=dict(num_modules=21))
