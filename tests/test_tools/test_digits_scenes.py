# Copyright (c) mmcropr contributors.
"""What the scenes and their annotations hold."""
import json
from pathlib import Path
from typing import Iterator, Optional, Tuple

import cv2
import numpy as np
import pytest
from pytest import MonkeyPatch, TempPathFactory

from tests.digits import COUNTS, contents, make, read_all, read_coco, tool

datasets = pytest.importorskip('sklearn.datasets')
coco_mask = pytest.importorskip('pycocotools.mask')
coco = pytest.importorskip('pycocotools.coco')


@pytest.fixture(scope='module')
def made(tmp_path_factory: TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp('digits') / 'made')


def test_files_and_marker(made: Path) -> None:
    names = contents(made)
    for split, count in COUNTS.items():
        for kind in ('images', 'labels', 'panoptic'):
            for index in range(count):
                assert f'{kind}/{split}/{index:06d}.png' in names
    assert len(names) == 3 * 9 + 2 * 4 + 1
    marker = json.loads(names['digits_scenes.json'])
    assert marker['arguments']['num_scenes'] == COUNTS
    assert len(marker['classes']) == len(marker['palette']) == 11
    assert [path.name for path in made.parent.iterdir()] == ['made']


def test_images_and_labels(made: Path) -> None:
    images, labels = read_all(made, 'images'), read_all(made, 'labels')
    assert images.shape == (9, 48, 64, 3) and images.dtype == np.uint8
    assert labels.shape == (9, 48, 64) and labels.dtype == np.uint8
    assert labels.max() <= 10 and labels.any((1, 2)).all()


def test_same_arguments_same_bytes(made: Path, tmp_path: Path) -> None:
    assert contents(make(tmp_path / 'again')) == contents(made)


def test_depth(made: Path, tmp_path: Path) -> None:
    """Larger digits are nearer and cover others; the rest stays as it is
    without depth."""
    root = make(tmp_path / 'depth', '--depth', '--digits', '2', '4')
    depth, labels = read_all(root, 'depth'), read_all(root, 'labels')
    assert depth.dtype == np.uint16 and depth.shape == labels.shape
    far = round(1250 * 24 / 16)
    assert ((depth == far) == (labels == 0)).all()
    assert 1000 <= depth.min() and depth[labels > 0].max() <= 1500
    assert not (made / 'depth').exists()
    names = contents(root)
    for split in COUNTS:
        found = read_coco(root, split)['annotations']
        assert {ann['image_id'] for ann in found} == set(range(COUNTS[split]))
    assert json.loads(names['digits_scenes.json'])['arguments']['depth']
    source = datasets.load_digits()
    settings = tool.drawing.SceneSettings(
        digits=(3, 5), digit_size=(20, 60), depth=True)
    for index in range(10):
        scene = tool.drawing.draw_scene(
            source.images, source.target, 0, index, settings)
        assert scene.sizes == sorted(scene.sizes)
        assert len(scene.sizes) == len(scene.classes)
        found = tool.annotations.depth_map(scene, (20, 60))
        for number, size in enumerate(scene.sizes):
            values = set(found[scene.owner == number + 1].tolist())
            assert values == {round(1000 * 60 / size)}


def test_without_depth_arguments_stay(made: Path) -> None:
    """Data sets that were made before there was any are still taken."""
    marker = json.loads((made / 'digits_scenes.json').read_text())
    assert 'depth' not in marker['arguments']


def test_seed_and_split_change_every_scene(made: Path, tmp_path: Path) -> None:
    labels = read_all(made, 'labels')
    other = read_all(make(tmp_path / 'other', '--seed', '1'), 'labels')
    assert (other != labels).any((1, 2)).all()
    source = datasets.load_digits()
    settings = tool.drawing.SceneSettings()
    for index in range(5):
        train, val = (
            tool.drawing.draw_scene(source.images, source.target, split, index,
                                    settings) for split in (0, 1))
        assert not np.array_equal(train.owner, val.owner)


def test_more_scenes_keep_the_first(made: Path, tmp_path: Path) -> None:
    before = contents(made)
    after = contents(make(tmp_path / 'more', '--num-train', '8'))
    pngs = [name for name in before if name.endswith('.png')]
    assert len(pngs) == 27
    assert all(before[name] == after[name] for name in pngs)
    assert after['meta/train.txt'].startswith(before['meta/train.txt'])


def test_splits_share_no_digit(made: Path) -> None:
    samples = json.loads((made / 'digits_scenes.json').read_text())['samples']
    train, val = set(samples['train']), set(samples['val'])
    assert not train & val and train | val == set(range(1797))
    held_out = np.bincount(datasets.load_digits().target[samples['val']])
    assert held_out.min() >= 34 and held_out.max() <= 38


def test_scenes_draw_from_their_split(made: Path, monkeypatch: MonkeyPatch,
                                      tmp_path: Path) -> None:
    pools = {}
    draw = tool.drawing.draw_scene

    def spy(images: np.ndarray, targets: np.ndarray, split: int, *rest:
            object) -> object:
        pools[split] = images
        return draw(images, targets, split, *rest)

    monkeypatch.setattr(tool.drawing, 'draw_scene', spy)
    make(tmp_path / 'spied')
    samples = json.loads((made / 'digits_scenes.json').read_text())['samples']
    source = datasets.load_digits().images
    assert np.array_equal(pools[0], source[samples['train']])
    assert np.array_equal(pools[1], source[samples['val']])


def instances(root: Path, split: str) -> Iterator[Tuple[np.ndarray, list]]:
    api = coco.COCO(str(root / f'annotations/instances_{split}.json'))
    for info in api.dataset['images']:
        path = root / f'labels/{split}' / info['file_name']
        labels = cv2.imread(str(path), -1)
        assert labels.shape == (info['height'], info['width'])
        found = api.loadAnns(api.getAnnIds(imgIds=[info['id']]))
        yield labels, [(api.annToMask(ann) > 0, ann) for ann in found]


@pytest.mark.parametrize('masks', ['polygon', 'rle'])
@pytest.mark.parametrize('split', ['train', 'val'])
def test_coco_agrees_with_label_maps(tmp_path: Path, masks: str,
                                     split: str) -> None:
    root = make(tmp_path / masks, '--masks', masks, '--digits', '2', '4')
    for labels, found in instances(root, split):
        drawn = np.zeros_like(labels)
        for mask, ann in found:
            assert not drawn[mask].any()
            drawn[mask] = ann['category_id']
            rows, cols = np.nonzero(mask)
            corner = [cols.min(), rows.min()]
            assert ann['bbox'] == corner + [np.ptp(cols) + 1, np.ptp(rows) + 1]
            assert ann['area'] == mask.sum() and ann['iscrowd'] == 0
            assert isinstance(ann['segmentation'], dict) == (masks == 'rle')
        assert (drawn == labels).all()
    content = read_coco(root, split)
    ids = [ann['id'] for ann in content['annotations']]
    assert ids == list(range(1, len(ids) + 1))
    assert [c['id'] for c in content['categories']] == list(range(1, 11))


def test_polygons_keep_holes_and_single_pixels() -> None:
    rng = np.random.default_rng(0)
    for density in np.linspace(.05, .95, 40):
        mask = rng.random((17, 23)) < density
        polygons = tool.annotations.mask_to_polygons(mask)
        assert all(type(value) is float for value in polygons[0])
        rle = coco_mask.merge(coco_mask.frPyObjects(polygons, *mask.shape))
        assert (coco_mask.decode(rle).astype(bool) == mask).all()


@pytest.mark.parametrize('split', ['train', 'val'])
def test_meta_agrees_with_annotations(made: Path, split: str) -> None:
    content = read_coco(made, split)
    multi = json.loads((made / f'meta/{split}_multilabel.json').read_text())
    lines = (made / f'meta/{split}.txt').read_text().splitlines()
    names = [c['name'] for c in content['categories']]
    assert multi['metainfo']['classes'] == names
    assert names[0] == 'zero' and names[9] == 'nine'
    assert len(lines) == len(multi['data_list']) == COUNTS[split]
    for line, item, info in zip(lines, multi['data_list'], content['images']):
        areas = [(ann['area'], ann['category_id'] - 1)
                 for ann in content['annotations']
                 if ann['image_id'] == info['id']]
        name, label = line.split(' ')
        assert name == item['img_path'] == info['file_name']
        assert item['gt_label'] == sorted({c for _, c in areas})
        assert (max(areas)[0], int(label)) in areas


def test_digits_stay_mostly_visible(monkeypatch: MonkeyPatch) -> None:
    source = datasets.load_digits()
    settings = tool.drawing.SceneSettings(40, 40, (6, 6), (20, 24), 0., 3)
    find, full, counts = tool.drawing._find_place, [], []

    def spy(rng: np.random.Generator, owner: np.ndarray, mask: np.ndarray,
            areas: list) -> Optional[Tuple[int, int]]:
        full[:] = areas
        return find(rng, owner, mask, areas)

    monkeypatch.setattr(tool.drawing, '_find_place', spy)
    for index in range(20):
        scene = tool.drawing.draw_scene(source.images, source.target, 0, index,
                                        settings)
        visible = np.bincount(scene.owner.ravel())[1:]
        assert len(visible) == len(scene.classes) >= 1
        assert (visible[:len(full)] >= .85 * np.array(full)).all()
        counts.append(len(visible))
    assert min(counts) < 6, 'a full image takes no more digits'


def test_digit_as_large_as_the_image(tmp_path: Path) -> None:
    size = ['--size', '24', '40', '--digit-size', '24', '24']
    out = make(tmp_path / 'out', *size, '--num-train', '20')
    assert read_all(out, 'labels').any((1, 2)).all()


def test_clutter_changes_only_the_background(tmp_path: Path) -> None:
    edges, labels = [], []
    for amount in ('0', '.5', '1'):
        root = make(tmp_path / amount, '--clutter', amount)
        labels.append(read_all(root, 'labels'))
        steps = np.diff(read_all(root, 'images').astype(float), axis=2)
        edges.append(np.abs(steps[labels[0][:, :, 1:] == 0]).mean())
    assert (labels[0] == labels[1]).all() and (labels[0] == labels[2]).all()
    assert 1.3 * edges[0] < edges[1] and 1.1 * edges[1] < edges[2]


def test_digits_stand_out(made: Path) -> None:
    images = iter(read_all(made, 'images').astype(float))
    for split in COUNTS:
        for labels, found in instances(made, split):
            image = next(images)
            for mask, _ in found:
                ring = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7))) > 0
                ink = np.median(image[mask], 0)
                paper = np.median(image[ring & (labels == 0)], 0)
                assert np.abs(ink - paper).max() > 30
