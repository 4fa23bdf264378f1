# Copyright (c) mmcropr contributors.
import importlib.util
import re
import shutil
import sys

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmcropr.models.checks import find_backbone
from tests.utils import ROOT

spec = importlib.util.spec_from_file_location(
    'image_demo', ROOT / 'demo/image_demo.py')
demo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(demo)


def run(monkeypatch, *options):
    monkeypatch.setattr(sys, 'argv', ['image_demo.py', *map(str, options)])
    demo.main()


def test_a_folder_goes_on_past_a_broken_image(trained, digits, tmp_path,
                                              monkeypatch, capsys):
    folder, out = tmp_path / 'images', tmp_path / 'out'
    folder.mkdir()
    source = sorted((digits / 'images/val').iterdir())[0]
    shutil.copy(source, folder / 'a.png')
    (folder / 'b.png').write_text('no image')
    shutil.copy(source, folder / 'c.png')
    with pytest.raises(SystemExit):
        run(monkeypatch, folder, *trained, '--out', out, '--runs', 1)
    said = capsys.readouterr().out
    assert re.search(r'2 images in .* take \d+\.\d\d times as long', said)
    assert 'left out: b.png' in said
    assert sorted(p.name for p in out.iterdir()) == ['a.png', 'c.png']
    assert mmcv.imread(str(out / 'a.png')).shape[1] > 1000


def test_what_the_colours_are(trained, digits):
    """Of the classes that are predicted, and of the modules."""
    path = sorted((digits / 'images/val').iterdir())[0]
    pruned = demo.Predictor(*trained)
    plain = pruned.without_pruning()
    pair = demo.run_both(pruned, plain, path, 1)
    left, right = (
        {text.get_text(): handle.get_facecolor()
         for text, handle in zip(legend.get_texts(), legend.get_patches())}
        for legend in demo.draw('x', pair, pruned, plain).legends)
    seen = torch.cat([picture.result.pred_sem_seg.data.flatten()
                      for picture in (pair.pruned, pair.plain)]).unique()
    assert left == {f'class {n}': (9 * n / 255, 0, 0, 1)
                    for n in seen.tolist()}
    blocks = pair.pruned.fates[0].blocks
    assert list(right) == [f'pruned after block {n}' for n in blocks]
    assert len(set(right.values())) == len(blocks) > 1


def test_another_share(trained):
    cfg = demo.with_tpr(Config.fromfile(trained[0]), 0.5)
    image = torch.rand(1, 3, 96, 96)
    shares = []
    predictor = demo.Predictor(cfg, trained[1])
    plain = predictor.without_pruning()
    for one in (predictor, plain):
        with torch.no_grad():
            state = one.model.extract_feat(image).state
        shares.append(int((state.removal_map() >= 0).sum()) / 144)
    assert 0.4 < shares[0] < 0.52 and shares[1] == 0
    assert find_backbone(plain.model).num_modules == 0
    assert find_backbone(predictor.model).num_modules > 0


def test_a_video(trained, tmp_path, monkeypatch, capsys):
    path, out = tmp_path / 'film.avi', tmp_path / 'out'
    writer = cv2.VideoWriter(
        str(path), cv2.VideoWriter_fourcc(*'MJPG'), 5, (96, 96))
    for shade in (0, 120, 240):
        writer.write(np.full((96, 96, 3), shade, np.uint8))
    writer.release()
    run(monkeypatch, path, *trained, '--out', out)
    assert len(list(demo.frames(out / 'film.mp4'))) == 3
    assert [p.name for p in out.iterdir()] == ['film.mp4']
    (tmp_path / 'empty.mp4').write_bytes(b'')
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path / 'empty.mp4', *trained, '--out', out)
    assert 'has no frames' in capsys.readouterr().err
    assert [p.name for p in out.iterdir()] == ['film.mp4']


@pytest.mark.parametrize('options, message', [
    (['no/such/file'], 'there is no no/such/file'),
    (['.', '--tpr', '1'], '--tpr is a share'),
    (['.', '--runs', '0'], '--runs must be 1 or more'),
])
def test_bad_options(options, message, trained, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, options[0], *trained, *options[1:], '--out', tmp_path)
    assert message in capsys.readouterr().err


def test_tpr_of_a_config_without_one_reducer(trained):
    cfg = Config.fromfile(trained[0])
    with pytest.raises(ValueError, match='this one has none'):
        none = Config.fromfile(trained[0])
        del none.model.backbone.reducer
        demo.with_tpr(none, 0.5)
    cfg.model.backbone.reducer = [cfg.model.backbone.reducer]
    with pytest.raises(ValueError, match='this one has several'):
        demo.with_tpr(cfg, 0.5)
