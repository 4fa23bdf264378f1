# The start of rows that go by the attention of the class token: it is what
# this one classifies by, so it is trained
_base_ = './digits-eva-192_1xb32-8e_digits-photos-classes-192x192.py'
model = dict(neck=dict(pool='cls'))
