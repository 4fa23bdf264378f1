# Token fusion of the paper's table:
# pruned tokens are put back behind the last block
_base_ = './cropr-r40_eva02-l_linear_1xb8-amp-64e_ade20k-512x512.py'
model = dict(neck=dict(_delete_=True, type='mmcropr.TokenConcatNeck'))
