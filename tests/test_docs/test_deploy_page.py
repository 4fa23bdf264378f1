# Copyright (c) mmcropr contributors.
"""What the page on deployment shows, run as it stands."""
import json
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.apis import inference_detector, init_detector
from mmengine.config import Config
from mmseg.apis import inference_model, init_model

from mmcropr.deploy.export import export, load_model
from mmcropr.deploy.formats import open_file
from tests.deploy import save, skip_without
from tests.utils import (ROOT, load_tool, run_tool, tiny_detector_config,
                         tiny_digits_config)

skip_without('onnx', 'onnxscript', 'onnxruntime')
PAGE = (ROOT / 'docs/en/user_guides/deploy.md').read_text()
SCRIPT, JOIN = re.findall(r'^```python\n(.*?)^```$', PAGE, re.M | re.S)
OUTSIDE = {'torch', 'mmengine', 'mmseg', 'mmcropr', 'timm', 'cv2'}


@pytest.fixture(scope='module')
def segmentor(digits, tmp_path_factory):
    """Config, checkpoint and file."""
    folder = tmp_path_factory.mktemp('page')
    files = save(tiny_digits_config(digits, folder / 'run'), folder)
    images = sorted((digits / 'images/val').glob('*.png'))
    export(Config.fromfile(files[0]), str(files[1]), 'onnx',
           folder / 'model.onnx', (64, 64), 'whole', True, False, images)
    return (*files, folder / 'model.onnx')


def test_script(segmentor, digits, tmp_path):
    """onnxruntime segments as mmseg does, and PyTorch is not even loaded."""
    config, checkpoint, file = segmentor
    code = SCRIPT + f'assert not {OUTSIDE} & set(sys.modules)\n'
    (tmp_path / 'segment.py').write_text(code)
    model = init_model(str(config), str(checkpoint), device='cpu')
    for image in sorted((digits / 'images/val').glob('*.png')):
        out = tmp_path / 'labels.png'
        said = run_tool(sys.executable, tmp_path / 'segment.py', file, image,
                        out)
        assert said.returncode == 0, said.stderr
        found = cv2.imread(str(out), cv2.IMREAD_UNCHANGED)
        wanted = inference_model(model, str(image)).pred_sem_seg.data[0]
        assert (found == wanted.numpy()).mean() > 0.999
        assert 'class' in said.stdout


def test_benchmark(segmentor, tmp_path, monkeypatch, capsys):
    """The ratio is to the file without pruning."""
    config, checkpoint, file = segmentor
    cfg = Config.fromfile(config)
    cfg.model.backbone.reducer = None
    images = sorted(Path(cfg.test_dataloader.dataset.data_root,
                         'images/val').glob('*.png'))
    files = [tmp_path / 'pruned.pt2', tmp_path / 'none.pt2']
    for one, out in zip((Config.fromfile(config), cfg), files):
        export(one, str(checkpoint), 'torch-export', out, (64, 64), 'encoder',
               False, False, images[:1])
    tool = load_tool('deploy/benchmark.py')
    out = tmp_path / 'out.json'
    monkeypatch.setattr(sys, 'argv', [
        'benchmark.py', str(file), *map(str, files), '--rounds', '3',
        '--warmup', '1', '--json', str(out)])
    tool.main()
    rows = json.loads(out.read_text())['results']
    assert [row['ratio_to_no_pruning'] is None for row in rows] == [
        True, False, True]
    assert rows[1]['ratio_to_no_pruning'] > 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in said[-3:]] == [
        str(x) for x in (file, *files)]
    monkeypatch.setattr(sys, 'argv', [
        'benchmark.py', str(files[0]), '--batch', '2'])
    with pytest.raises(SystemExit):
        tool.main()
    assert '--dynamic-batch' in capsys.readouterr().err


def test_heads_of_a_detector(digits, tmp_path, monkeypatch):
    """With the exported encoder it finds what it found."""
    config, checkpoint = save(
        tiny_detector_config(digits, tmp_path / 'run'), tmp_path)
    images = sorted((digits / 'images/val').glob('*.png'))
    cfg = Config.fromfile(config)
    export(cfg, str(checkpoint), 'onnx', tmp_path / 'encoder.onnx', (64, 64),
           'encoder', False, False, images)
    plain = load_model(cfg, str(checkpoint))[0]
    cfg.model = cfg.model.detector
    cfg.model.backbone.reducer.num_queries = 1
    (tmp_path / 'deployed').mkdir()
    cfg.dump(tmp_path / 'deployed/my_detection.py')
    torch.save(dict(state_dict=plain.state_dict()),
               tmp_path / 'deployed/my_detection.pth')
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(JOIN, scope)
    whole = init_detector('deployed/my_detection.py',
                          'deployed/my_detection.pth', device='cpu')
    for image in images:
        found, wanted = (
            inference_detector(model, str(image)).pred_instances
            for model in (scope['detector'], whole))
        assert len(found) == len(wanted) > 0
        # In any order: heads of random weights score boxes alike
        apart = found.bboxes[:, None] - wanted.bboxes[None]
        assert apart.abs().amax(2).amin(1).max() < 0.05
        assert torch.allclose(found.scores, wanted.scores, atol=1e-2)
    assert scope['maps_of'](torch.zeros(1, 3, 64, 64))[0].shape[0] == 1
    assert open_file(tmp_path / 'encoder.onnx')[0]['task'] == 'detection'
    assert np.isfinite(found.scores.numpy()).all()
