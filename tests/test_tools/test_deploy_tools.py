# Copyright (c) mmcropr contributors.
"""export.py and verify.py, as users start them."""
import copy
import errno
import sys
from pathlib import Path

import pytest
import torch

from mmcropr.deploy import export as core
from mmcropr.deploy.formats import FORMATS, open_file
from mmcropr.utils.files import staged
from tests.deploy import save, skip_without
from tests.utils import (ROOT, load_tool, tiny_classifier_config,
                         tiny_detector_config, tiny_digits_config)

skip_without()
export = load_tool('deploy/export.py')
verify = load_tool('deploy/verify.py')
CONFIGS = dict(
    segmentation=tiny_digits_config, classification=tiny_classifier_config,
    detection=tiny_detector_config)


@pytest.fixture(scope='module', params=CONFIGS)
def trained(request, digits, tmp_path_factory):
    """Config and checkpoint of a task."""
    folder = tmp_path_factory.mktemp(request.param)
    cfg = CONFIGS[request.param](digits, folder / 'run')
    return request.param, save(cfg, folder)


@pytest.fixture(scope='module')
def segmentor(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp('segmentor')
    return save(tiny_digits_config(digits, folder / 'run'), folder)


def run(monkeypatch, tool, *args):
    monkeypatch.setattr(sys, 'argv', ['tool', *map(str, args)])
    tool.main()


def refusal(monkeypatch, capsys, tool, *args):
    """What a command says as it ends with exit code 1."""
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, tool, *args)
    assert stop.value.code == 1
    return capsys.readouterr().err.splitlines()[-1]


def test_every_task(trained, tmp_path, monkeypatch, capsys):
    task, files = trained
    out = tmp_path / 'new/model.pt2'
    part = 'encoder' if task == 'detection' else 'whole'
    run(monkeypatch, export, *files, '--format', 'torch-export', '--out', out,
        '--part', part, '--dynamic-batch', '--num-images', 3)
    said = capsys.readouterr().out
    assert '3 images' in said and f'wrote {out}' in said
    assert str(ROOT).encode() not in out.read_bytes(), 'a path of this machine'
    assert [x.name for x in out.parent.iterdir()] == ['model.pt2']
    description, _ = open_file(out)
    assert description['task'] == task and description['part'] == part
    assert description['input']['shape'] == ['batch', 3, 64, 64]
    preprocessing = description['preprocessing']
    assert preprocessing['channels'] == 'rgb'
    assert preprocessing['mean'] == preprocessing['std'] == [127.5] * 3
    assert description['classes'] == [f'class{i}' for i in range(11)] or (
        task != 'segmentation')
    assert description['versions']['torch'] == torch.__version__
    assert description['schedule']['reducers'][0] == 'Cropr'
    run(monkeypatch, verify, out, *files)
    assert 'is equal' in capsys.readouterr().out


def test_half(segmentor, tmp_path, monkeypatch, capsys):
    """It says how far every block drifts."""
    out = tmp_path / 'model.pt2'
    run(monkeypatch, export, *segmentor, '--format', 'torch-export', '--out',
        out, '--half', '--shape', 64, 48)
    said = capsys.readouterr().out
    drift, = (x for x in said.splitlines() if 'drift per block' in x)
    values = [float(x) for x in drift.split(': ')[1].split()]
    assert len(values) == 6 and all(0 < x < 0.1 for x in values)
    description, compute = open_file(out)
    assert description['input'] == dict(
        name='image', shape=[1, 3, 64, 48], dtype='float16')
    run(monkeypatch, verify, out, *segmentor)
    assert 'as far as half precision is' in capsys.readouterr().out


def test_another_share(segmentor, tmp_path, monkeypatch, capsys):
    """Than that of the config, chosen when a model is deployed."""
    files = [tmp_path / Path(file).name for file in segmentor]
    for file, copied in zip(segmentor, files):
        copied.write_bytes(Path(file).read_bytes())
    run(monkeypatch, export, *files, '--format', 'torch-export',
        '--num-images', 2, '--tpr', .25)
    out = tmp_path / f'{files[0].stem}_tpr25.pt2'
    description, _ = open_file(out)
    assert description['schedule']['lengths'][-1] == 48, 'of 65'
    run(monkeypatch, verify, out, *segmentor, '--tpr', .25)
    assert 'is equal' in capsys.readouterr().out
    said = refusal(monkeypatch, capsys, verify, out, *segmentor)
    assert '48] tokens behind its modules, the model [' in said
    assert 'give the --tpr' in said


def turned(model, dynamic_batch):
    """Exports a model whose second module keeps what it should prune."""
    model = copy.deepcopy(model)
    model.backbone.reducers[1].queries.data.neg_()
    return to_program(model, dynamic_batch)


to_program = core.to_program


def test_unequal(segmentor, tmp_path, monkeypatch, capsys):
    """The first module that differs is named, and nothing is left; a file
    that was there before stays."""
    monkeypatch.setattr(core, 'to_program', turned)
    out = tmp_path / 'model.pt2'
    out.write_text('older')
    said = refusal(monkeypatch, capsys, export, *segmentor, '--format',
                   'torch-export', '--out', out)
    assert 'module 1 is the first that keeps other tokens' in said
    assert out.read_text() == 'older'
    assert list(tmp_path.iterdir()) == [out]


def test_full_disk(segmentor, tmp_path, monkeypatch, capsys):
    def write(self, program, names, description, file):
        file.write_text('half of it')
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(type(FORMATS['torch-export']), 'write', write)
    said = refusal(monkeypatch, capsys, export, *segmentor, '--format',
                   'torch-export', '--out', tmp_path / 'model.pt2')
    assert 'No space left' in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('options, text', [
    (['--shape', '0', '64'], '--shape must be positive'),
    (['--format', 'onnx'], 'end in .onnx'),
    (['--num-images', '0'], '--num-images must be 1 or more'),
    (['--images', 'nowhere'], 'no images at nowhere'),
    (['--cfg-options', 'model.backbone.reducer.type=mmcropr.Random',
      'model.backbone.reducer.num_queries=1'], 'reducer'),
    (['--cfg-options', 'model.decode_head.num_classes=12'],
     'no checkpoint of this model'),
])
def test_bad_input(options, text, segmentor, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'model.pt2'
    options = ['--format', 'torch-export', *options]
    said = refusal(monkeypatch, capsys, export, *segmentor, *options, '--out',
                   out)
    assert text in said
    assert not list(tmp_path.iterdir())


def test_random_selection(digits, tmp_path, monkeypatch, capsys):
    cfg = tiny_digits_config(digits, tmp_path)
    cfg.model.backbone.reducer = dict(type='mmcropr.Random', rate=12)
    del cfg.model['auxiliary_head']
    said = refusal(monkeypatch, capsys, export, *save(cfg, tmp_path),
                   '--format', 'torch-export')
    assert 'Random draws random numbers' in said


def test_whole_detector(digits, tmp_path, monkeypatch, capsys):
    files = save(tiny_detector_config(digits, tmp_path / 'run'), tmp_path)
    said = refusal(monkeypatch, capsys, export, *files, '--format',
                   'torch-export')
    assert '--part encoder' in said


def test_other_checkpoint(segmentor, tmp_path, monkeypatch, capsys):
    """Verified against other weights, a file is not equal."""
    out = tmp_path / 'model.pt2'
    config, checkpoint = segmentor
    run(monkeypatch, export, *segmentor, '--format', 'torch-export', '--out',
        out)
    weights = torch.load(checkpoint, weights_only=False)
    weights['state_dict']['backbone.reducers.0.queries'].neg_()
    torch.save(weights, tmp_path / 'other.pth')
    said = refusal(monkeypatch, capsys, verify, out, config,
                   tmp_path / 'other.pth')
    assert 'module 0 is the first that keeps other tokens' in said


def test_missing_package(segmentor, monkeypatch, capsys):
    monkeypatch.setattr(type(FORMATS['onnx']), 'needs', ('no_such', ))
    said = refusal(monkeypatch, capsys, export, *segmentor)
    assert 'Run: pip install no_such' in said


def test_staged(tmp_path):
    """All files of an export appear, the named one last, or none does."""
    with staged(tmp_path / 'new/x.xml') as file:
        file.write_text('x')
        Path(file.parent, 'x.bin').write_text('weights')
        assert not (tmp_path / 'new/x.xml').exists()
    assert sorted(x.name for x in (tmp_path / 'new').iterdir()) == [
        'x.bin', 'x.xml']
    with pytest.raises(KeyError), staged(tmp_path / 'y.xml') as file:
        file.write_text('y')
        raise KeyError
    assert [x.name for x in tmp_path.iterdir()] == ['new']
