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
from mmcropr.utils.rates import with_tpr
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
    (folder / 'd.png').touch()
    with pytest.raises(SystemExit):
        run(monkeypatch, folder, *trained, '--out', out, '--runs', 1)
    said = capsys.readouterr().out
    assert re.search(r'2 images in .* take \d+\.\d\d times as long', said)
    assert 'left out: b.png' in said and 'left out: d.png' in said
    assert sorted(p.name for p in out.iterdir()) == ['a.png', 'c.png']
    assert mmcv.imread(str(out / 'a.png')).shape[1] > 1000


def test_checkpoints_are_data(evil, digits, tmp_path, monkeypatch, capsys):
    config, checkpoint, made = evil
    image = sorted((digits / 'images/val').iterdir())[0]
    args = (image, config, checkpoint, '--runs', 1, '--out')
    with pytest.raises(SystemExit):
        run(monkeypatch, *args, tmp_path / 'no')
    assert 'give --trust-checkpoint' in capsys.readouterr().err
    assert not made.exists()
    run(monkeypatch, *args, tmp_path / 'yes', '--trust-checkpoint')
    assert made.exists() and list((tmp_path / 'yes').iterdir())


def legends(pair, *predictors) -> list:
    """Labels and colours of both, left and right."""
    below = demo.draw('x', pair, *predictors).subfigs[1]
    return [{text.get_text(): handle.get_facecolor()
             for text, handle in zip(one.get_texts(), one.get_patches())}
            for one in below.legends]


@pytest.fixture
def predictors(trained):
    pruned = demo.Predictor(*trained)
    return pruned, pruned.without_pruning()


@pytest.fixture
def pair(predictors, digits):
    path = sorted((digits / 'images/val').iterdir())[0]
    return demo.run_both(*predictors, path, 1)


def test_what_the_colours_are(predictors, pair):
    """Of the classes that are predicted, and of the blocks; both are drawn."""
    left, right = legends(pair, *predictors)
    seen, counts = torch.cat([
        picture.result.pred_sem_seg.data.flatten()
        for picture in (pair.pruned, pair.plain)]).unique(return_counts=True)
    most = seen[counts.argsort(descending=True, stable=True)].tolist()
    assert list(left.items()) == [
        (f'class {n}', (9 * n / 255, 0, 0, 1)) for n in most]
    assert right.pop('kept: the image')[3] == 0
    fates, = pair.pruned.fates
    assert list(right) == [f'pruned after block {n}' for n in fates.blocks]
    drawn = demo.removal_colours(pair.pruned.image, fates)
    for module, colour in enumerate(right.values()):
        where = fates.pixels(fates.removed) == module
        assert where.any() and np.allclose(drawn[where], colour[:3])


def test_colours_of_what_the_checkpoint_names(predictors, pair):
    """Fewer classes than the model has, or none that are predicted, as of a
    depth model whose data set has classes."""
    plain = predictors[1]
    plain.meta = dict(classes=('a', ), palette=[[255, 0, 0]])
    assert set(plain.class_colours(pair.plain)) <= {'a'}
    del pair.plain.result.pred_sem_seg
    assert plain.class_colours(pair.plain) == {}


@pytest.mark.parametrize('slots, left, labels', [
    ([[0, 0, 1, 2]], [], ['merged: the colour of its token']),
    ([[0, 0, 1, -1]], [3],
     ['merged: the colour of its token', 'darkened: pruned']),
    ([[0, 1, 2, 3]], [], ['kept: the image']),
])
def test_what_became_of_patches(slots, left, labels):
    fates = demo.Fates((2, 2), (4, 4), [1], np.array(slots), np.zeros((1, 4)))
    assert np.flatnonzero(fates.removed.ravel() >= 0).tolist() == left
    assert [x.get_label() for x in demo.what_became(fates)] == labels


def test_many_blocks():
    """Some stand for all, from the first to the last."""
    removed = np.arange(23)
    slots = np.where(removed[:, None] < removed, removed, -1)
    fates = demo.Fates((1, 23), (4, 4), list(range(23)), slots, slots * 0.)
    labels = [x.get_label() for x in demo.what_became(fates)]
    assert len(labels) == 6
    assert labels[1].endswith('block 0') and labels[-1].endswith('block 22')


def test_another_share(trained):
    cfg = with_tpr(Config.fromfile(trained[0]), 0.5)
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
    (['.', '--tpr', '1'], 'a share is from 0 to below 1, got 1'),
    (['.', '--runs', '0'], '--runs must be 1 or more'),
])
def test_bad_options(options, message, trained, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, options[0], *trained, *options[1:], '--out', tmp_path)
    assert message in capsys.readouterr().err
