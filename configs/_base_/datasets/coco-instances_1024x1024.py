# As coco-instances_1536x1536.py, in 1024 px
_base_ = './coco-instances_1536x1536.py'
train_pipeline = _base_.train_pipeline
train_pipeline[3].scale = (1024, 1024)
train_pipeline[4].crop_size = (1024, 1024)
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = (1024, 1024)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
