# Copyright (c) mmcropr contributors.
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset, CocoPanopticDataset
from mmengine.config import Config

from mmcropr.utils.data import check_annotations, check_data, check_start_files
from mmcropr.utils.samples import check_classes
from tests.utils import tiny_detector_config, tiny_digits_config


@pytest.fixture
def cfg(digits, tmp_path):
    """Config of detectors over annotations that may be edited."""
    cfg = tiny_detector_config(digits, tmp_path / 'run')
    source = digits / 'annotations/instances_train.json'
    file = tmp_path / 'train.json'
    file.write_text(source.read_text())
    cfg.train_dataloader.dataset.ann_file = str(file)
    return cfg


def edit(cfg, change):
    file = cfg.train_dataloader.dataset.ann_file
    with open(file) as stream:
        content = json.load(stream)
    change(content)
    with open(file, 'w') as stream:
        json.dump(content, stream)
    return content


def test_sound_annotations(cfg, capsys):
    check_annotations(cfg, 'train_dataloader')
    assert 'left out' not in capsys.readouterr().out


def test_broken_annotations_are_named_and_left_out(cfg, capsys):
    """The numbers are those of what mmdet really leaves out."""

    def change(content):
        notes = content['annotations']
        notes[0]['bbox'][2] = 0
        notes[1]['area'] = 0
        notes[2]['bbox'][:2] = [500, 10]
        notes[3]['category_id'] = 77
        notes[4]['image_id'] = 12345

    content = edit(cfg, change)
    notes, images = content['annotations'], {
        image['id']: image['file_name'] for image in content['images']}
    check_annotations(cfg, 'train_dataloader')
    text = capsys.readouterr().out
    assert '3 annotations without area' in text
    name = images[notes[0]['image_id']]
    assert f'id {notes[0]["id"]} in {name} has box' in text
    assert '1 annotations with a category outside the classes' in text
    assert 'has category 77' in text
    assert '1 annotations of unlisted images' in text
    assert 'image 12345' in text
    dataset = dict(cfg.train_dataloader.dataset, pipeline=[])
    dataset.pop('type')
    loaded = CocoDataset(**dataset)
    kept = sum(len(loaded.get_data_info(i)['instances'])
               for i in range(len(loaded)))
    assert kept == len(notes) - 5


@pytest.mark.parametrize('change, message', [
    (lambda c: [n.update(category_id=99) for n in c['annotations']],
     'no usable annotation: .* with a category outside the classes'),
    (lambda c: c['categories'].clear(), 'its categories are {}'),
    (lambda c: c['annotations'][3].update(bbox=[1, 2]),
     r'1 annotations have no box of four numbers, .* bbox \[1, 2\]'),
    (lambda c: c['annotations'][3].pop('area'), "KeyError 'area'"),
    (lambda c: c.pop('images'), "is no COCO annotation file: KeyError 'images'"
     ),
])
def test_useless_files(cfg, change, message):
    edit(cfg, change)
    with pytest.raises(ValueError, match=message):
        check_annotations(cfg, 'train_dataloader')


def test_truncated_file(cfg):
    with open(cfg.train_dataloader.dataset.ann_file, 'w') as stream:
        stream.write('{"images": [')
    with pytest.raises(ValueError, match='no COCO annotation file'):
        check_annotations(cfg, 'train_dataloader')


def test_wrapped_datasets_and_default_classes(cfg, capsys):
    """RepeatDataset, and classes of CocoDataset itself."""
    inner = cfg.train_dataloader.dataset
    inner.pop('metainfo')
    loader = dict(dataset=dict(type='RepeatDataset', times=2, dataset=inner))
    with pytest.raises(ValueError, match="classes of the config.*'bicycle'"):
        check_annotations(Config(dict(loader=loader)), 'loader')


def test_other_datasets_pass():
    cfg = dict(loader=dict(dataset=dict(type='X', data_root='nowhere')))
    check_annotations(Config(cfg), 'loader')


@pytest.mark.parametrize('change', [
    lambda d: d.update(type=CocoDataset),
    lambda d: d.update(data_root=None, data_prefix=dict(
        img=str(Path(d.data_root, d.data_prefix.img)))),
])
def test_what_mmdet_reads_is_not_refused(cfg, change):
    change(cfg.train_dataloader.dataset)
    check_annotations(cfg, 'train_dataloader')


@pytest.mark.parametrize('change', [
    lambda c: c.pop('annotations'), lambda c: c['annotations'].clear()])
def test_no_annotation(cfg, change):
    edit(cfg, change)
    with pytest.raises(ValueError, match='nothing to learn from'):
        check_annotations(cfg, 'train_dataloader')
    cfg.train_dataloader.dataset.test_mode = True
    check_annotations(cfg, 'train_dataloader')


def test_unlabelled_images_beside_others(cfg, tmp_path, capsys):
    """Semi-supervised training: said, not refused."""
    labelled = cfg.train_dataloader.dataset
    root = Path(labelled.data_root)
    content = json.loads((root / labelled.ann_file).read_text())
    content['annotations'] = []
    (tmp_path / 'none.json').write_text(json.dumps(content))
    unlabelled = dict(labelled, ann_file=str(tmp_path / 'none.json'))
    cfg.train_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[labelled, unlabelled])
    check_annotations(cfg, 'train_dataloader', few=False)
    assert 'none.json has no annotation' in capsys.readouterr().out


def test_classes_in_a_file(cfg, tmp_path, capsys):
    names = tmp_path / 'classes.txt'
    names.write_text('\n'.join(cfg.train_dataloader.dataset.metainfo.classes))
    cfg.train_dataloader.dataset.metainfo = dict(classes=str(names))
    check_annotations(cfg, 'train_dataloader')
    assert 'left out' not in capsys.readouterr().out


def test_start_files(tmp_path):
    start = dict(type='Pretrained', checkpoint=str(tmp_path / 'x.pth'))
    cfg = Config(dict(
        model=dict(detector=dict(backbone=[dict(init_cfg=[start])])),
        start_command='make it'))
    with pytest.raises(FileNotFoundError, match='x.pth.*To make it: make it'):
        check_start_files(cfg)
    (tmp_path / 'x.pth').touch()
    check_start_files(cfg)
    start['checkpoint'] = 'torchvision://resnet50'
    check_start_files(Config(dict(model=start)))


def test_missing_annotation_file(cfg):
    cfg.train_dataloader.dataset.ann_file = 'annotations/none.json'
    with pytest.raises(FileNotFoundError, match='annotations/none.json'):
        check_data(cfg, 'train_dataloader')


def test_teacher_of_a_run(tmp_path):
    path = tmp_path / 'teacher.pth'
    cfg = Config(dict(model=dict(head=dict(
        auxiliary=dict(teacher_config='x.py', teacher_ckpt=str(path))))))
    with pytest.raises(FileNotFoundError, match='teacher_ckpt=.*teacher.pth'):
        check_start_files(cfg)
    path.touch()
    check_start_files(cfg)


@pytest.mark.parametrize('change, message', [
    (lambda c: [n.update(bbox=[n['bbox'][0], n['bbox'][1],
                               n['bbox'][0] + n['bbox'][2],
                               n['bbox'][1] + n['bbox'][3]])
                for n in c['annotations']], 'look like x1, y1, x2, y2'),
    (lambda c: c['annotations'][2]['bbox'].__setitem__(1, float('nan')),
     '1 annotations have a box that is not finite'),
])
def test_boxes_of_no_use(cfg, change, message):
    edit(cfg, change)
    with pytest.raises(ValueError, match=message):
        check_annotations(cfg, 'train_dataloader')


def test_boxes_over_the_edge(cfg, capsys):
    edit(cfg, lambda c: c['annotations'][0].update(bbox=[40, 40, 30, 20]))
    check_annotations(cfg, 'train_dataloader')
    assert '1 annotations reach out' in capsys.readouterr().out


def test_one_class_without_a_comma(cfg):
    cfg.train_dataloader.dataset.metainfo = dict(classes=('zero'))
    with pytest.raises(ValueError, match=r"classes=\('zero', \)"):
        check_data(cfg, 'train_dataloader')


@pytest.mark.parametrize('data', ['CIFAR10', 'MNIST'])
def test_data_that_download_themselves(tmp_path, data):
    dataset = dict(type=f'mmpretrain.{data}', data_root=str(tmp_path / 'x'))
    cfg = Config(dict(loader=dict(dataset=dataset)))
    check_data(cfg, 'loader')
    check_annotations(cfg, 'loader')
    cfg.loader.dataset.download = False
    with pytest.raises(FileNotFoundError):
        check_data(cfg, 'loader')


@pytest.fixture
def scenes(digits, tmp_path):
    """Config of segmentors over files that may be edited."""
    shutil.copytree(digits, tmp_path / 'digits')
    return tiny_digits_config(tmp_path / 'digits', tmp_path / 'run')


def paths(cfg):
    data = cfg.train_dataloader.dataset
    root = Path(data.data_root)
    return (sorted((root / data.data_prefix.img_path).iterdir()),
            sorted((root / data.data_prefix.seg_map_path).iterdir()))


def link(cfg):
    path = paths(cfg)[0][1]
    path.unlink()
    path.symlink_to('gone.png')


def write(index, change):
    def act(cfg):
        path = str(paths(cfg)[1][index])
        cv2.imwrite(path, change(cv2.imread(path, cv2.IMREAD_UNCHANGED)))
    return act


@pytest.mark.parametrize('change, message', [
    (link, 'broken links: .*-> gone.png'),
    (lambda c: paths(c)[0][2].write_bytes(b'no image'),
     '1 unreadable files: .*png'),
    (lambda c: paths(c)[1][2].write_bytes(b'no image'),
     '1 unreadable files: .*png'),
    (lambda c: paths(c)[1][2].unlink(),
     '1 files missing .seg_map_path; there: 15 .png'),
    (lambda c: c.train_dataloader.dataset.update(seg_map_suffix='.tif'),
     '16 files missing .seg_map_path; there: 16 .png'),
    (lambda c: c.train_dataloader.dataset.update(img_suffix='.jpg'),
     'end in .jpg .img_suffix.*16 .png'),
    (write(3, lambda x: np.full_like(x, 77)),
     r'1 label maps outside of 0 to \d+: .* has \[77\]'),
    (write(3, lambda x: x[:32]), '1 label maps of another size'),
])
def test_samples_of_segmentation(scenes, change, message):
    check_annotations(scenes, 'train_dataloader')
    change(scenes)
    with pytest.raises(ValueError, match=message):
        check_annotations(scenes, 'train_dataloader')


def test_ignored_pixels_are_no_labels(scenes):
    write(0, lambda x: np.full_like(x, 255))(scenes)
    check_annotations(scenes, 'train_dataloader')


def test_classes_of_model_and_data(scenes, capsys):
    head = scenes.model.decode_head
    number = head.num_classes
    head.num_classes = number + 3
    check_annotations(scenes, 'train_dataloader')
    assert (f'model.decode_head.num_classes={number + 3}, but '
            'train_dataloader.dataset') in capsys.readouterr().out
    head.num_classes = number - 1
    with pytest.raises(ValueError, match=f'has {number} classes'):
        check_annotations(scenes, 'train_dataloader')


@pytest.mark.parametrize('label', [1, 2, -1])
def test_labels_of_images(digits, tmp_path, label):
    file = tmp_path / 'list.txt'
    file.write_text(f'000000.png 0\n000001.png {label}\n')
    dataset = dict(
        type='mmpretrain.CustomDataset', data_root=str(digits),
        data_prefix='images/train', ann_file=str(file))
    cfg = Config(dict(
        default_scope='mmpretrain', loader=dict(dataset=dataset),
        model=dict(head=dict(num_classes=2))))
    if label == 1:
        check_annotations(cfg, 'loader')
        return
    with pytest.raises(ValueError, match=f'labels outside of 0 to 1: {label}'):
        check_annotations(cfg, 'loader')


PREFIX = dict(data_prefix=dict(img='images', ann='', seg='maps'))


@pytest.mark.parametrize('number, fits', [
    (80, True), (133, True), (79, False), (90, False)])
def test_classes_of_things(number, fits):
    """Boxes and masks of a panoptic model are of things alone."""
    head = dict(bbox_head=dict(num_classes=number),
                mask_head=dict(num_classes=80))
    semantics = Config(dict(default_scope='mmdet', model=dict(
        semantic_head=dict(num_classes=80))))
    with pytest.raises(ValueError, match='num_classes=80, but .* 133'):
        check_classes(semantics, 'loader', CocoPanopticDataset, PREFIX)
    cfg = Config(dict(default_scope='mmdet', model=dict(roi_head=head)))
    if fits:
        check_classes(cfg, 'loader', CocoPanopticDataset, PREFIX)
        return
    with pytest.raises(ValueError, match=f'num_classes={number}, but .* 133'):
        check_classes(cfg, 'loader', CocoPanopticDataset, PREFIX)


def test_start_files_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'x.pth').touch()
    check_start_files(Config(dict(model=dict(
        init_cfg=dict(type='Pretrained', checkpoint='~/x.pth'),
        head=dict(teacher_ckpt='~/x.pth')))))
