# Copyright (c) mmcropr contributors.
"""Digits in photographs, and what data give away without a model."""
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from pytest import CaptureFixture, MonkeyPatch, TempPathFactory

from tests.digits import contents, read_all, read_coco, tool
from tests.utils import load_tool

pytest.importorskip('sklearn.datasets')
pytest.importorskip('skimage')
stats = load_tool('analysis_tools/foreground_stats.py')
photos = sys.modules['digits_photos']
PHOTOS = '--background photos --num-train 6 --num-val 3'.split()


@pytest.fixture(scope='module')
def made(tmp_path_factory: TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('digits') / 'photos'
    tool.main([str(out), *PHOTOS])
    return out


def test_sizes_and_annotations(made: Path) -> None:
    images, labels = read_all(made, 'images'), read_all(made, 'labels')
    assert images.shape == (9, 192, 192, 3)
    assert labels.max() <= 10 and labels.any((1, 2)).all()
    for split, part in (('train', labels[:6]), ('val', labels[6:])):
        found = read_coco(made, split)
        for index, label in enumerate(part):
            areas = [a['area'] for a in found['annotations']
                     if a['image_id'] == index]
            assert 2 <= len(areas) <= 3 and sum(areas) == (label > 0).sum()
    marker = json.loads((made / 'digits_scenes.json').read_text())
    assert marker['arguments']['background'] == 'photos'


def test_same_arguments_same_bytes(made: Path, tmp_path: Path) -> None:
    tool.main([str(tmp_path / 'again'), *PHOTOS])
    assert contents(tmp_path / 'again') == contents(made)


def test_numbers_are_printed(tmp_path: Path, capsys: CaptureFixture) -> None:
    tool.main([str(tmp_path / 'out'), *PHOTOS, '--digits', '1', '1'])
    said = capsys.readouterr().out
    assert 'AUC of patch variance for digit patches: 0.' in said
    assert 'share of digit patches: 0.0' in said


def test_photographs_of_the_splits_are_disjoint() -> None:
    assert not set(photos.TRAIN) & set(photos.VAL)
    found = photos.load_photos()
    assert len(found['train'].images) == len(photos.TRAIN)
    assert all(image.ndim == 3 for image in found['val'].images)


def test_a_photograph_that_is_missing(tmp_path: Path, monkeypatch: MonkeyPatch,
                                      capsys: CaptureFixture) -> None:
    monkeypatch.setattr(photos, 'VAL', ('nobody.png', ))
    with pytest.raises(SystemExit):
        tool.main([str(tmp_path / 'out'), *PHOTOS])
    said = capsys.readouterr().err
    assert 'nobody.png' in said and 'scikit-image' in said
    assert not list(tmp_path.iterdir())


def test_scikit_image_is_missing(tmp_path: Path, monkeypatch: MonkeyPatch,
                                 capsys: CaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, 'skimage', None)
    with pytest.raises(SystemExit):
        tool.main([str(tmp_path / 'out'), *PHOTOS])
    assert 'pip install scikit-image' in capsys.readouterr().err


def test_covered_pixels_have_no_owner() -> None:
    """What lies on a digit takes little of it, and all of its pixels."""
    rng = np.random.default_rng(0)
    settings = tool.drawing.SceneSettings(192, 192, (1, 1), (60, 68))
    digit = rng.integers(8, 17, (4, 8, 8))
    style, lost = photos.load_photos()['train'], []
    for index in range(20):
        scene = tool.drawing.draw_scene(
            digit, np.zeros(4, int), 0, index, settings, style)
        before = (scene.owner > 0).sum()
        scene.image = scene.image.astype(np.float32)
        style.cover(rng, scene, digit, settings)
        lost.append(1 - (scene.owner > 0).sum() / before)
    assert max(lost) <= photos.COVERED and max(lost) > 0


def test_pieces_are_no_digit() -> None:
    """Quarters are turned by odd quarters of a circle: of a shape that such
    turns change nothing is left in its place."""
    rng = np.random.default_rng(1)
    alpha = photos.scrambled(rng, np.full((3, 8, 8), 16.), 40.)
    assert alpha.ndim == 2 and 0 <= alpha.min() and alpha.max() <= 1


def test_variance_is_that_of_the_reducer() -> None:
    """The number that is printed is about the scores of mmcropr.Variance."""
    import torch

    from mmcropr.models.reducers import Variance
    from tests.utils import make_state
    image = torch.rand(1, 3, 24, 16)
    state = make_state(1, (3, 2), image=image)
    wanted = Variance(4).score(state).numpy().reshape(3, 2)
    found = stats.patch_variance(image[0].permute(1, 2, 0).numpy(), 8)
    assert np.allclose(found, wanted, atol=1e-5)


def test_foreground_patches() -> None:
    labels = np.zeros((16, 19), np.uint8)
    labels[:2, :4], labels[8:, 8:16] = 3, 255  # 8 of 64 pixels, ignored ones
    assert stats.foreground_of(labels, 8).tolist() == [[True, False],
                                                       [False, False]]


def test_area_under_curve() -> None:
    positive = np.array([True, True, False, False])
    assert stats.area_under_curve(positive, np.array([3, 4, 1, 2])) == 1
    assert stats.area_under_curve(positive, np.ones(4)) == .5
    assert stats.area_under_curve(positive | True, np.arange(4)) == .5


def test_command(made: Path, tmp_path: Path, capsys: CaptureFixture) -> None:
    stats.main([str(made), '--json', str(tmp_path / 'a.json')])
    found = json.loads((tmp_path / 'a.json').read_text())
    assert set(stats.LIMITS) <= set(found)
    assert 0 < found['foreground_patches'] < .3
    with pytest.raises(SystemExit):
        stats.main([str(tmp_path)])
    assert 'no label maps' in capsys.readouterr().err
    text = stats.describe(dict(found, variance_auc=.7))
    assert '0.700 (at most 0.60: NOT MET)' in text


def test_data_that_do_not_fit(made: Path, tmp_path: Path,
                              capsys: CaptureFixture) -> None:
    copied = tmp_path / 'copied'
    shutil.copytree(made, copied)
    image = sorted((copied / 'images/val').glob('*.png'))[0]
    image.unlink()
    for args, text in (([str(made), '--patch', '500'], 'one size'),
                       ([str(copied)], image.name)):
        with pytest.raises(SystemExit):
            stats.main(args)
        said = capsys.readouterr().err.splitlines()
        assert text in said[-1] and said[-1].startswith('error: ')
