# Copyright (c) mmcropr contributors.
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmcropr.models.checks import check_model
from mmcropr.utils.build import plain_model
from tests.test_models.test_heads.test_cls_head import data, model_cfg


def build(cfg):
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    return MODELS.build(cfg)


def cropr_cfg(head=dict(type='mmcropr.CroprClsHead', num_classes=5),
              **options):
    return dict(
        model_cfg(), type='mmcropr.CroprClassifier', head=head, **options)


def test_it_is_the_stock_classifier_with_complete_sizes():
    stock, own = build(model_cfg()), build(cropr_cfg())
    check_model(own)
    assert own.state_dict().keys() == stock.state_dict().keys()
    own.load_state_dict(stock.state_dict())
    batch = own.data_preprocessor(data(), True)  # draws for mixup
    losses = [model(**batch, mode='loss') for model in (stock, own)]
    assert losses[0] == losses[1] and len(losses[0]) == 3


@pytest.mark.parametrize('head', [
    dict(type='LinearClsHead'), dict(type='StackedLinearClsHead',
                                     mid_channels=[8]),
    dict(type='mmcropr.DynamicViTClsHead')])
def test_heads_of_mmpretrain(head):
    model = build(cropr_cfg(dict(head, num_classes=5)))
    assert model.head.in_channels == 32


def test_heads_of_several_queries_heads():
    cfg = cropr_cfg()
    cfg['backbone']['reducer'].update(num_heads=2, modules=[0])
    model = build(cfg)
    check_model(model)
    assert model.head.auxiliary.num_heads == 2
    assert model.head.auxiliary.num_modules == 1


def test_other_necks_and_no_head():
    cfg = cropr_cfg(dict(type='LinearClsHead', num_classes=5, in_channels=7),
                    neck=dict(type='GlobalAveragePooling'))
    cfg['backbone']['out_type'] = 'featmap'
    assert build(cfg).head.in_channels == 7
    del cfg['head']['in_channels']
    with pytest.raises(TypeError, match='in_channels'):
        build(cfg)
    assert build(cropr_cfg(head=None)).head is None


def test_plain_model_is_complete():
    from mmengine.config import ConfigDict
    model = build(plain_model(ConfigDict(cropr_cfg())))
    assert type(model.head).__name__ == 'LinearClsHead'
    assert model.head.in_channels == 32


def test_backbone_without_a_learner():
    for reducer, message in (
            (None, 'the backbone has no reducer: remove this head'),
            (dict(type='mmcropr.Random', rate=4), 'Random leaves nothing that '
             'CroprLabelHead could learn from: remove this head')):
        cfg = cropr_cfg()
        cfg['backbone']['reducer'] = reducer
        with pytest.raises(ValueError, match=message):
            build(cfg)


def test_heads_that_hand_their_arguments_on():
    from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS

    from mmcropr.models import CroprClsHead

    class Own(CroprClsHead):

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)

    MMPRETRAIN_MODELS.register_module(module=Own, force=True)
    model = build(cropr_cfg(dict(type='Own', num_classes=5)))
    assert model.head.auxiliary.num_modules == 2


def test_necks_between():
    neck = [dict(type='mmcropr.LLFNeck'), dict(type='GlobalAveragePooling')]
    cfg = cropr_cfg(dict(type='mmcropr.CroprClsHead', num_classes=5,
                         in_channels=32), neck=neck)
    with pytest.raises(ValueError, match='GlobalAveragePooling hands maps on '
                       "without the token state.*mmcropr.HostNeck"):
        check_model(build(cfg))
    cfg['neck'][1] = dict(type='mmcropr.HostNeck', neck=neck[1])
    model = build(cfg)
    check_model(model)
    losses = model(**model.data_preprocessor(data(), True), mode='loss')
    assert 'aux.module1.loss' in losses


def test_bad_input():
    wrong = dict(type='mmcropr.CroprClsHead', num_classes=5, num_modules=3)
    with pytest.raises(ValueError, match='num_modules=3'):
        check_model(build(cropr_cfg(wrong)))
    wide = dict(type='mmcropr.CroprClsHead', num_classes=5, in_channels=64)
    with pytest.raises(ValueError, match='in_channels=64'):
        check_model(build(cropr_cfg(wide)))
    with pytest.raises(ValueError, match='is ResNet; CroprClassifier is for'):
        build(cropr_cfg(backbone=dict(type='ResNet', depth=18)))
    with pytest.raises(KeyError, match='NoHead'):
        build(cropr_cfg(dict(type='NoHead', num_classes=5)))
