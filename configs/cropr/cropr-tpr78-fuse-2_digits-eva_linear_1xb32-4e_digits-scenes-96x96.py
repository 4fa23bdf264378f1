# The last two blocks run on all tokens: some of the time for accuracy
_base_ = './cropr-tpr78_digits-eva_linear_1xb32-4e_digits-scenes-96x96.py'
model = dict(backbone=dict(fuse_at=-2))
