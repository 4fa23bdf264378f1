# Copyright (c) mmcropr contributors.
"""mmpretrain's retriever, and encoders that are nobody's backbone."""
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmcropr.models.checks import check_model
from tests.test_models.test_heads.test_cls_head import data, model_cfg

ARC_FACE = dict(type='ArcFaceClsHead', num_classes=5, in_channels=32)


def retriever(checkpoint=None, reducer=None, head=ARC_FACE):
    cfg = model_cfg()
    cfg['backbone']['reducer'] = reducer or cfg['backbone']['reducer']
    cfg['backbone']['init_cfg'] = checkpoint and dict(
        type='Pretrained', checkpoint=checkpoint, prefix='backbone.')
    return MODELS.build(dict(
        type='ImageToImageRetriever', head=head,
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


def test_queries_need_a_head_that_trains_them():
    init_default_scope('mmpretrain')
    with pytest.raises(ValueError, match=r'image_encoder.0 of ImageToImageRet'
                       r'riever: Cropr learns .*A retriever takes head=dict'):
        check_model(retriever())
    check_model(retriever(reducer=dict(type='mmcropr.Random', rate=4)))
    frozen = retriever()
    frozen.requires_grad_(False)
    check_model(frozen)
    model = retriever(head=dict(
        type='mmcropr.CroprClsHead', in_channels=32, num_classes=5,
        num_modules=2))
    check_model(model)
    batch = model.data_preprocessor(data(), True)
    losses = model.train()(**batch, mode='loss')
    assert len(losses) == 3
    sum(losses.values()).backward()
    assert all(reducer.queries.grad.abs().sum() > 0
               for reducer in model.image_encoder[0].reducers)


def test_a_second_encoder_has_heads_of_its_own():
    """Those of another one do not train it."""
    init_default_scope('mmpretrain')
    model = MODELS.build(model_cfg())
    check_model(model)
    model.teacher = MODELS.build(model_cfg()['backbone'])
    with pytest.raises(ValueError, match='teacher of ImageClassifier: Cropr'):
        check_model(model)
