# Copyright (c) mmcropr contributors.
"""Models of one file, and those in the repository."""
import sys
from pathlib import Path

import mmcv
import numpy as np
import pytest
import small_models
import torch
import yaml
from mmengine.config import Config
from safetensors.torch import save_file

from mmcropr.utils.loading import load_safely
from mmcropr.visualization import Predictor
from tests.utils import ROOT, load_tool

tool = load_tool('model_converters/small_model.py')
strip = load_tool('model_converters/strip_auxiliary.py')


@pytest.fixture(scope='module')
def small(trained, tmp_path_factory) -> Path:
    """Stripped and in half precision, by the two tools."""
    folder = tmp_path_factory.mktemp('small')
    strip.strip(*trained, folder / 'plain', None)
    config = folder / 'plain/config.py'
    size = tool.convert(str(config), str(config.with_suffix('.pth')),
                        folder / 'digits.safetensors')
    assert 1e5 < size < config.with_suffix('.pth').stat().st_size
    return folder


def test_same_prediction(small, trained, digits):
    """But for the rounding to half precision."""
    load_safely()
    cfg, checkpoint = small_models.resolve('digits', folder=small)
    image = sorted((digits / 'images/val').iterdir())[0]
    found, wanted = Predictor(cfg, checkpoint)(image), Predictor(*trained)(
        image)
    same = (found.result.pred_sem_seg.data == wanted.result.pred_sem_seg.data)
    assert same.float().mean() > .9
    assert (found.fates[0].slots == wanted.fates[0].slots).mean() > .9


def test_classes_are_in_the_file(small):
    load_safely()
    predictor = Predictor(*small_models.resolve('digits', folder=small))
    assert predictor.meta['classes'][0] == 'class 0'


def test_config_of_a_model(tmp_path, monkeypatch, capsys):
    """As a command, for tools/test.py."""
    out = tmp_path / 'my_config.py'
    monkeypatch.setattr(sys, 'argv', [
        'small_models.py', 'digits-segmentation', str(out)])
    small_models.main()
    cfg = Config.fromfile(out)
    assert cfg.model.backbone.type == 'mmcropr.CroprViT'
    for name, text in (('other', 'no model'), ('my.py', 'no checkpoint')):
        monkeypatch.setattr(sys, 'argv', ['small_models.py', name, str(out)])
        with pytest.raises(SystemExit):
            small_models.main()
        assert text in capsys.readouterr().err


def test_unknown_name(small, tmp_path):
    with pytest.raises(ValueError, match="no model 'letters' .*digits"):
        small_models.resolve('letters', folder=small)
    with pytest.raises(ValueError, match='none is there'):
        small_models.resolve('letters', folder=tmp_path)


def test_a_file_without_a_config(tmp_path):
    save_file(dict(x=torch.zeros(1)), tmp_path / 'x.safetensors')
    with pytest.raises(ValueError, match='has no config in it'):
        small_models.resolve('x', folder=tmp_path)


@pytest.mark.parametrize('limit, out, message', [
    (1000, 'big.safetensors', 'too much for a file'),
    (5_000_000, 'big.pth', 'must end with .safetensors')])
def test_refused(limit, out, message, trained, tmp_path, monkeypatch,
                 capsys):
    monkeypatch.setattr(tool, 'LIMIT', limit)
    monkeypatch.setattr(sys, 'argv', [
        'small_model.py', *trained, str(tmp_path / out)])
    with pytest.raises(SystemExit):
        tool.main()
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', small_models.names())
def test_models_of_the_repository(name, tmp_path):
    """Below 5 MB, with a config that is there; they load and predict, and
    words on a small picture can be read."""
    load_safely()
    path = small_models.find_model(name)
    assert path.stat().st_size < 5e6
    index = yaml.safe_load(
        (ROOT / 'demo/models/index.yml').read_text())[name]
    assert (ROOT / index['config']).is_file() and index['note']
    cfg, checkpoint = small_models.resolve(name)
    assert isinstance(cfg, Config)
    predictor = Predictor(cfg, checkpoint)
    assert predictor.backbone.num_modules > 0
    assert len(predictor.meta['classes']) >= 10
    mmcv.imwrite(np.full((96, 96, 3), 90, np.uint8), str(tmp_path / 'a.png'))
    view = predictor.draw(predictor(tmp_path / 'a.png'))
    words = predictor.host != 'mmseg'
    assert view.shape[0] == (4 * 96 if words else 96)
