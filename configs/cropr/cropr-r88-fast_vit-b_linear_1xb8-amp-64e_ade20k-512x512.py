# Every module learns from a random quarter of its queries per iteration, and
# these at twice the rate: Adam moves what it sees s of the time by sqrt(s)
_base_ = './cropr-r88_vit-b_linear_1xb8-amp-64e_ade20k-512x512.py'
model = dict(auxiliary_head=dict(query_share=0.25))
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'backbone.reducers': dict(lr_mult=2.)}))
