# Copyright (c) mmcropr contributors.
"""test.py with an exported file, and what runtimes make of pruning."""
import sys

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from mmcropr.deploy import export as core
from mmcropr.deploy import substitute
from mmcropr.deploy.export import load_model
from mmcropr.deploy.formats import open_file
from tests.deploy import save, skip_without
from tests.utils import (load_tool, tiny_classifier_config,
                         tiny_detector_config, tiny_digits_config)

skip_without()
export = load_tool('deploy/export.py')
test_tool = load_tool('test.py')
CONFIGS = dict(
    segmentation=tiny_digits_config, classification=tiny_classifier_config,
    detection=tiny_detector_config)


def run(monkeypatch, tool, *args):
    monkeypatch.setattr(sys, 'argv', ['tool', *map(str, args)])
    tool.main()


def metrics(monkeypatch, *args):
    """What test.py finds, and whether the ViT of the model ran."""
    found, ran = {}, []
    loop = Runner.test

    def keep(self):
        model = getattr(self.model, 'detector', self.model)
        model.backbone.register_forward_hook(lambda *_: ran.append(1))
        found.update(loop(self))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Runner, 'test', keep)
        run(patch, test_tool, *args)
    return found, bool(ran)


@pytest.fixture(scope='module', params=CONFIGS)
def task(request):
    return request.param


@pytest.fixture(scope='module')
def files(task, digits, tmp_path_factory):
    """Config, checkpoint, exported file."""
    folder = tmp_path_factory.mktemp(task)
    config, checkpoint = save(CONFIGS[task](digits, folder / 'run'), folder)
    out = folder / 'model.pt2'
    with pytest.MonkeyPatch.context() as patch:
        run(patch, export, config, checkpoint, '--format', 'torch-export',
            '--out', out, '--part',
            'encoder' if task == 'detection' else 'whole', '--num-images', 1)
    return config, checkpoint, out


def test_metrics_are_those_of_pytorch(task, files, tmp_path, monkeypatch):
    config, checkpoint, out = files
    args = config, checkpoint, '--work-dir', tmp_path
    wanted, ran = metrics(monkeypatch, *args)
    assert ran
    found, ran = metrics(monkeypatch, *args, '--exported', out)
    assert not ran, 'the file computes'
    assert found == pytest.approx(wanted, abs=1e-3)

    def nothing(file):
        about, compute = open_file(file)
        return about, lambda image: {
            key: 0 * value for key, value in compute(image).items()}

    monkeypatch.setattr(substitute, 'open_file', nothing)
    other, _ = metrics(monkeypatch, *args, '--exported', out)
    assert other != pytest.approx(wanted, abs=1e-3), 'the file counts'


def test_another_size(files, tmp_path, monkeypatch, capsys):
    config, checkpoint, out = files
    monkeypatch.setattr(
        substitute, 'open_file', lambda file: (dict(
            open_file(file)[0],
            input=dict(shape=[1, 3, 96, 64], dtype='float32')), None))
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, test_tool, config, checkpoint, '--work-dir', tmp_path,
            '--exported', out)
    assert stop.value.code == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert 'takes images of [3, 96, 64]' in said


@pytest.mark.parametrize('changed, text', [
    (dict(task='another'), 'is a model of another'),
    (dict(classes=['one']), 'has 1 classes')])
def test_another_model(task, files, tmp_path, monkeypatch, capsys, changed,
                       text):
    config, checkpoint, out = files
    if task == 'detection' and 'classes' in changed:
        pytest.skip('an encoder has no classes of its own')
    monkeypatch.setattr(substitute, 'open_file', lambda file: (
        dict(open_file(file)[0], **changed), None))
    with pytest.raises(SystemExit):
        run(monkeypatch, test_tool, config, checkpoint, '--work-dir', tmp_path,
            '--exported', out)
    assert text in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize('shape, fits', [((60, 64), False),
                                         ((64, 64), True)])
def test_encoder_of_a_size_that_is_no_multiple_of_patches(
        digits, tmp_path, shape, fits):
    """Its maps say nothing of where the image ends."""
    config, checkpoint = save(
        tiny_digits_config(digits, tmp_path / 'run'), tmp_path)
    cfg, out = Config.fromfile(config), tmp_path / 'model.pt2'
    images = sorted((digits / 'images/val').glob('*.png'))[:1]
    core.export(cfg, str(checkpoint), 'torch-export', out, shape, 'encoder',
                False, False, images)
    model = load_model(cfg, str(checkpoint))[0]
    if fits:
        assert substitute.use_file(model, out)['part'] == 'encoder'
        return
    with pytest.raises(ValueError, match='images of 60 x 64 px, no multiple '
                       'of patches of 8 x 8'):
        substitute.use_file(model, out)


@pytest.mark.parametrize('words', [['--tta'], ['--tpr', '0.5']])
def test_goes_not_with(words, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, test_tool, 'a.py', 'b.pth', *words, '--exported',
            'c.onnx')
    assert f'goes not with {words[0]}' in capsys.readouterr().err
