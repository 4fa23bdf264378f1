# Copyright (c) mmcropr contributors.
import pytest
from mmengine.config import Config

from mmcropr.models.reducers import Cropr, SiT
from mmcropr.utils.rates import with_tpr
from tests.utils import ROOT

CONFIG = ROOT / ('configs/cropr/cropr-tpr78_digits-eva_linear_1xb32-4e_'
                 'digits-scenes-96x96.py')


@pytest.mark.parametrize('amount', [
    dict(keep=[72, 24]), dict(rate=[0, 40]), dict(keep_rate=[.5, .5])])
def test_modules_stay_and_the_share_is_another(amount):
    cfg = Config.fromfile(CONFIG)
    cfg.model.backbone.reducer = dict(type='mmcropr.Random', **amount)
    reducer = with_tpr(cfg, .5).model.backbone.reducer
    assert reducer == dict(type='mmcropr.Random', modules=[0, 1], tpr=.5)
    assert 'tpr' not in cfg.model.backbone.reducer, 'not changed'
    inside = Config(dict(model=dict(
        type='mmcropr.CroprDetector', detector=cfg.model)))
    changed = with_tpr(inside, .25).model.detector.backbone.reducer
    assert changed.tpr == .25 and 'keep' not in changed


def test_a_config_without_one_reducer():
    cfg = Config.fromfile(CONFIG)
    none = Config.fromfile(CONFIG)
    del none.model.backbone.reducer
    with pytest.raises(ValueError, match='this one has none'):
        with_tpr(none, 0.5)
    cfg.model.backbone.reducer = [cfg.model.backbone.reducer]
    with pytest.raises(ValueError, match='this one has several'):
        with_tpr(cfg, 0.5)
    with pytest.raises(ValueError, match='no model'):
        with_tpr(Config(dict()), 0.5)
    with pytest.raises(ValueError, match='ImageToImageRetriever has no backb'):
        with_tpr(Config(dict(model=dict(type='ImageToImageRetriever'))), 0.5)


@pytest.mark.parametrize('kind', ['SiT', 'PatchMerger', 'Sinkhorn'])
def test_weights_of_their_own_lengths(kind):
    cfg = Config.fromfile(CONFIG)
    cfg.model.backbone.reducer = dict(type=f'mmcropr.{kind}', keep=[72, 24])
    with pytest.raises(ValueError, match=f'{kind} are for the lengths'):
        with_tpr(cfg, 0.5)


def test_inside_lora():
    cfg = Config.fromfile(CONFIG)
    cfg.model.backbone = dict(type='LoRAModel', module=cfg.model.backbone)
    assert with_tpr(cfg, .5).model.backbone.module.reducer.tpr == .5


def test_types_that_are_classes():
    cfg = Config.fromfile(CONFIG)
    cfg.model.backbone.reducer.type = Cropr
    assert with_tpr(cfg, .5).model.backbone.reducer.tpr == .5
    cfg.model.backbone.reducer = dict(type=SiT, keep=[72, 24])
    with pytest.raises(ValueError, match='SiT are for the lengths'):
        with_tpr(cfg, .5)
