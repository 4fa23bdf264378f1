# Copyright (c) mmcropr contributors.
"""``tools/visualize_pruning.py`` for the three tasks."""
import json
import os
import re
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from safetensors.torch import save_file

from mmcropr.visualization import Predictor
from tests.utils import ROOT, load_tool

tool = load_tool('visualize_pruning.py')
CONFIGS = dict(
    mmseg='cropr/cropr-tpr78_digits-eva_linear_1xb32-4e_digits-scenes-96x96',
    mmdet='cropr/cropr-keep72-24_mask-rcnn_digits-eva_1xb16-6e_digits-scenes-'
    '96x96',
    mmpretrain='cropr/cropr-tpr78_digits-eva_1xb32-8e_digits-classes-96x96')


@pytest.fixture
def trained(tmp_path, digits):
    """Config and checkpoint of a model of a host, with random weights."""

    def make(host, data=digits):
        cfg = Config.fromfile(ROOT / f'configs/{CONFIGS[host]}.py')
        cfg.test_dataloader.dataset.data_root = str(data)
        init_default_scope(host)
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        classes = [f'class {number}' for number in range(11)]
        torch.save(
            dict(state_dict=model.state_dict(), meta=dict(
                dataset_meta=dict(
                    classes=classes,
                    palette=[(9 * n, 0, 0) for n in range(11)]))),
            tmp_path / f'{host}.pth')
        cfg.dump(tmp_path / f'{host}.py')
        return str(tmp_path / f'{host}.py'), str(tmp_path / f'{host}.pth')

    return make


def run(monkeypatch, *options):
    monkeypatch.setattr(sys, 'argv', ['visualize_pruning.py', *options])
    tool.main()


@pytest.mark.parametrize('host', CONFIGS)
def test_pictures_of_the_test_set(host, trained, tmp_path, monkeypatch):
    out = tmp_path / 'out'
    run(monkeypatch, *trained(host), '--test', '2', '--out', str(out))
    pictures = sorted(path.name for path in out.glob('*.png'))
    assert len(pictures) == 4
    data = re.search(r'id="data">(.*?)</script>',
                     (out / 'explorer.html').read_text(), re.S)[1]
    items = json.loads(data)
    assert [f'{item["name"]}.png' for item in items] == pictures[::2]
    fates, = items[0]['methods'].values()
    side = 12 if host == 'mmdet' else 8  # mmdet's test resizes
    assert fates['grid'] == [side, side]
    assert len(fates['slots'][0]) == side * side


def test_images_of_one_name():
    """In a test set that has a folder for each class."""
    folders = ['cat', 'dog']
    predictor = SimpleNamespace(
        test_set=lambda: folders,
        predict=lambda folder: SimpleNamespace(
            result=SimpleNamespace(img_path=f'{folder}/001.jpg')))
    args = SimpleNamespace(images=None, test=2)
    names = [name for name, *_ in tool.predictions({'a': predictor}, args)]
    assert names == ['001', '001-2']


def test_a_folder_with_a_broken_image(trained, digits, tmp_path, monkeypatch,
                                      capsys):
    folder, out = tmp_path / 'images', tmp_path / 'out'
    folder.mkdir()
    source = sorted((digits / 'images/val').iterdir())[0]
    shutil.copy(source, folder / 'a.png')
    (folder / 'b.png').write_text('no image')
    with pytest.raises(SystemExit):
        run(monkeypatch, *trained('mmseg'), str(folder), '--out', str(out),
            '--name', 'Cropr', '--also', 'Twin', *trained('mmseg'))
    said = capsys.readouterr().out
    assert '1 images' in said and 'left out: b.png' in said
    assert sorted(p.name for p in out.iterdir()) == [
        'a.png', 'a_blocks.png', 'explorer.html']
    assert '"Twin"' in (out / 'explorer.html').read_text()


@pytest.mark.parametrize('options, message', [
    ([], 'give images, or --test N'),
    (['here', '--test', '2'], 'give images, or --test N'),
    (['--test', '0'], '--test must be 1 or more'),
    (['no/such/folder'], 'there is no no/such/folder'),
    (['EMPTY'], 'no image in'),
    (['--test', '1', '--also', 'cropr-tpr78', 'a.py', 'b.pth'],
     'a name of its own'),
])
def test_bad_options(options, message, trained, tmp_path, monkeypatch, capsys):
    (tmp_path / 'empty').mkdir()
    options = [str(tmp_path / 'empty') if option == 'EMPTY' else option
               for option in options]
    config, checkpoint = trained('mmseg')
    named = str(shutil.copy(config, tmp_path / 'cropr-tpr78_x.py'))
    with pytest.raises(SystemExit):
        run(monkeypatch, named, checkpoint, *options, '--out',
            str(tmp_path / 'out'))
    assert message in ' '.join(capsys.readouterr().err.split())


def test_a_model_without_a_reducer(trained, tmp_path, monkeypatch, capsys):
    config, _ = trained('mmseg')
    cfg = Config.fromfile(config)
    del cfg.model.backbone.reducer, cfg.model.auxiliary_head
    cfg.dump(tmp_path / 'plain.py')
    init_default_scope('mmseg')
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()),
               tmp_path / 'plain.pth')
    with pytest.raises(SystemExit):
        run(monkeypatch, str(tmp_path / 'plain.py'),
            str(tmp_path / 'plain.pth'), '--test', '1', '--out',
            str(tmp_path / 'out'))
    assert 'has no reducer' in capsys.readouterr().err


def test_a_checkpoint_of_another_config(trained, tmp_path, monkeypatch,
                                        capsys):
    config, _ = trained('mmseg')
    _, checkpoint = trained('mmpretrain')
    with pytest.raises(SystemExit):
        run(monkeypatch, config, checkpoint, '--test', '1', '--out',
            str(tmp_path / 'out'))
    assert 'no checkpoint of this model' in capsys.readouterr().err


class Evil:
    """Runs code where it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.makedirs, (str(self.folder), 0o777, True)


def test_checkpoints_are_data(trained, tmp_path, monkeypatch, capsys):
    config, checkpoint = trained('mmseg')
    content = torch.load(checkpoint)
    torch.save(dict(content, evil=Evil(tmp_path / 'made')),
               tmp_path / 'evil.pth')
    args = (config, str(tmp_path / 'evil.pth'), '--test', '1', '--out',
            str(tmp_path / 'out'))
    with pytest.raises(SystemExit):
        run(monkeypatch, *args)
    assert 'more than data' in capsys.readouterr().err
    assert not (tmp_path / 'made').exists()
    run(monkeypatch, *args, '--trust-checkpoint')
    assert (tmp_path / 'made').exists()


def test_file_of_tensors(trained, digits, tmp_path):
    """Without names of classes: the data set of the config has them, by the
    name that its host knows it by."""
    config, checkpoint = trained('mmseg')
    save_file(torch.load(checkpoint)['state_dict'], tmp_path / 'x.safetensors')
    cfg = Config.fromfile(config)
    cfg.test_dataloader.dataset.type = 'ADE20KDataset'
    del cfg.test_dataloader.dataset.metainfo
    predictor = Predictor(cfg, str(tmp_path / 'x.safetensors'))
    assert predictor.meta['classes'][:2] == ('wall', 'building')
    image = sorted((digits / 'images/val').iterdir())[0]
    assert predictor.draw(predictor(image)).shape == (64, 64, 3)


def test_images_are_never_replaced(trained, digits, tmp_path, monkeypatch,
                                   capsys):
    folder = tmp_path / 'images'
    folder.mkdir()
    source = sorted((digits / 'images/val').iterdir())[0]
    shutil.copy(source, folder / 'a.png')
    shutil.copy(source, folder / 'a.jpg')
    for out, message in ((folder, 'holds the images themselves'),
                         (tmp_path / 'out', 'several images are named a,')):
        with pytest.raises(SystemExit):
            run(monkeypatch, *trained('mmseg'), str(folder), '--out', str(out))
        assert message in ' '.join(capsys.readouterr().err.split())
    assert (folder / 'a.png').read_bytes() == source.read_bytes()
    assert len(list(folder.iterdir())) == 2
