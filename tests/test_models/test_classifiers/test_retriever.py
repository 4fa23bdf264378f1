# Copyright (c) mmcropr contributors.
"""mmpretrain's retriever: CroprClassifier trains what it looks images up by."""
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmcropr.models.checks import check_model
from tests.test_models.test_heads.test_cls_head import data, model_cfg

ARC_FACE = dict(type='ArcFaceClsHead', num_classes=5, in_channels=32)


def retriever(checkpoint=None, reducer=None):
    cfg = model_cfg()
    cfg['backbone']['reducer'] = reducer or cfg['backbone']['reducer']
    cfg['backbone']['init_cfg'] = checkpoint and dict(
        type='Pretrained', checkpoint=checkpoint, prefix='backbone.')
    return MODELS.build(dict(
        type='ImageToImageRetriever', head=ARC_FACE,
        image_encoder=[cfg['backbone'], cfg['neck']],
        prototype=torch.rand(6, 32),
        data_preprocessor=cfg['data_preprocessor']))


def classifier():
    return MODELS.build(dict(
        model_cfg(), type='mmcropr.CroprClassifier', head=ARC_FACE,
        auxiliary_head=dict(type='mmcropr.CroprLabelHead', num_classes=5)))


def test_it_takes_the_weights_of_a_classifier(tmp_path):
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    trained = classifier().eval()
    check_model(trained)
    torch.save(trained.state_dict(), tmp_path / 'a.pth')
    model = retriever(str(tmp_path / 'a.pth')).eval()
    model.init_weights()
    batch = model.data_preprocessor(data())
    with torch.no_grad():
        found, wanted = (m.extract_feat(batch['inputs'])[-1]
                         for m in (model, trained))
        assert torch.equal(found, wanted) and found.shape[1] == 32
        samples = model.predict(**batch)
    assert samples[0].pred_score.shape == (6, )  # one per prototype


def test_it_cannot_train_queries():
    init_default_scope('mmpretrain')
    with pytest.raises(ValueError, match='Cropr learns through an auxiliary '
                                         'head, and the model has none'):
        check_model(retriever())
    check_model(retriever(reducer=dict(type='mmcropr.Random', rate=4)))
