# Token fusion of the paper's table:
# pruned tokens are put back behind the last block
_base_ = './cropr-tpr78_digits-eva_linear_1xb32-4e_digits-scenes-96x96.py'
model = dict(neck=dict(_delete_=True, type='mmcropr.TokenConcatNeck'))
