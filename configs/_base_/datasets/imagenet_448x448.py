# As imagenet_224x224.py, in 448 px and without the margin of the centre crop
_base_ = './imagenet_224x224.py'
train_pipeline = _base_.train_pipeline
train_pipeline[1].scale = 448
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = 448
test_pipeline[2].crop_size = 448
train_dataloader = dict(batch_size=32, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=32, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
