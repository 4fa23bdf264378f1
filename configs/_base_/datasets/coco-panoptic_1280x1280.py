# As coco-panoptic_640x640.py, in 1280 px
_base_ = './coco-panoptic_640x640.py'
train_pipeline = _base_.train_pipeline
train_pipeline[3].scale = (1280, 1280)
train_pipeline[4].crop_size = (1280, 1280)
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = (1280, 1280)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
