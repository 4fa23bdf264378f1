# Every module learns from a random quarter of its queries per iteration
_base_ = './cropr-r88_dinov2-b_linear_1xb8-amp-64e_ade20k-512x512.py'
model = dict(auxiliary_head=dict(query_share=0.25))
