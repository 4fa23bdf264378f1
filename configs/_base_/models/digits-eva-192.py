# The blocks of digits-eva.py for larger images: places by rotation alone, so
# that crops of any size teach them
_base_ = './digits-eva.py'
model = dict(
    data_preprocessor=dict(size=(192, 192)),
    backbone=dict(img_size=192, arch=dict(use_abs_pos_emb=False)))
