# Copyright (c) mmcropr contributors.
import json

import pytest
from mmdet.datasets import CocoDataset
from mmengine.config import Config

from mmcropr.utils.data import check_annotations, check_data, check_start_files
from tests.utils import tiny_detector_config


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
    lambda d: d.update(type='CocoPanopticDataset'),
    lambda d: d.update(type=CocoDataset),
    lambda d: d.update(data_root=None),
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
