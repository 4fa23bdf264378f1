# Copyright (c) mmcropr contributors.
from types import SimpleNamespace
from unittest import mock

import mmcv
import numpy as np
import pytest
import torch
from mmengine.registry import VISBACKENDS
from mmengine.runner import Runner
from mmengine.visualization import BaseVisBackend
from torch import nn

from mmcropr.engine import PruningMapHook
from mmcropr.engine.hooks.pruning_map_hook import draw_pruning_map
from mmcropr.models import CroprViT
from tests.utils import TINY, tiny_digits_config


def test_drawing():
    image = np.full((4, 6, 3), 200, np.uint8)
    removed = np.full((4, 6), -1)
    removed[:, :3] = 1
    picture = draw_pruning_map(image, removed, 4)
    first, when, kept = np.split(picture, 3, axis=1)
    assert (first == image).all()
    assert (when[:, 3:] == 200).all() and (when[:, :3] != 200).any()
    assert (kept[:, 3:] == 200).all() and (kept[:, :3] == 40).all()


@pytest.mark.parametrize('out_type', ['tokens', 'featmap'])
def test_pictures_of_a_test_run(digits, tmp_path, out_type):
    cfg = tiny_digits_config(digits, tmp_path)
    cfg.model.backbone.out_type = out_type
    if out_type == 'featmap':
        cfg.model.neck = None
    cfg.custom_hooks = [
        dict(type='mmcropr.PruningMapHook', num_images=3)
    ]
    Runner.from_cfg(cfg).test()
    files = sorted((tmp_path / 'pruning_maps').glob('*.png'))
    assert len(files) == 3
    source = mmcv.imread(str(digits / f'images/val/{files[0].name}'))
    image, when, kept = np.split(mmcv.imread(str(files[0])), 3, axis=1)
    assert (image == source).all()
    # 64 patches of 8 px, 49 of 65 tokens left: 15 patches stay
    stays = (kept == source).all(-1).reshape(8, 8, 8, 8).all((1, 3))
    assert stays.sum() == 15


@VISBACKENDS.register_module()
class Album(BaseVisBackend):
    """A backend as TensorBoard's is, for what it is given."""

    shown: dict = {}

    experiment = property(lambda self: self)

    def _init_env(self):
        pass

    def add_image(self, name, image, step=0, **kwargs):
        self.shown[name, step] = image


def test_pictures_in_a_backend(digits, tmp_path):
    """With names and iterations, RGB, and not as files a second time."""
    cfg = tiny_digits_config(digits, tmp_path)
    cfg.custom_hooks = [dict(type='mmcropr.PruningMapHook', num_images=2)]
    cfg.visualizer.vis_backends = [
        dict(type='LocalVisBackend'), dict(type='Album')]
    Album.shown.clear()
    Runner.from_cfg(cfg).train()
    files = sorted((tmp_path / 'pruning_maps').glob('*.png'))
    names, steps = map(set, zip(*Album.shown))
    assert names == {f'pruning_map/{file.stem}' for file in files}
    assert steps and min(steps) > 0
    last = Album.shown[f'pruning_map/{files[0].stem}', max(steps)]
    assert (last == mmcv.imread(str(files[0]), channel_order='rgb')).all()
    assert not list(tmp_path.glob('*/vis_data/vis_image'))
    scalars = next(tmp_path.glob('*/vis_data/scalars.json')).read_text()
    assert 'tokens/kept_behind_block0' in scalars


def test_nothing_to_draw_without_reducer(digits, tmp_path):
    cfg = tiny_digits_config(digits, tmp_path)
    cfg.model.backbone.reducer, cfg.model.auxiliary_head = None, None
    Runner.from_cfg(cfg).test()
    assert not (tmp_path / 'pruning_maps').exists()


def test_model_without_a_backbone_of_ours(tmp_path):
    hook = PruningMapHook()
    runner = SimpleNamespace(model=nn.Linear(1, 1), work_dir=str(tmp_path))
    for _ in range(2):
        hook.before_val_epoch(runner)
        hook.after_val_iter(runner, 0, dict(inputs=[]), [])
        hook.after_val_epoch(runner)
    assert not list(tmp_path.iterdir())


def test_bad_number():
    with pytest.raises(ValueError, match='num_images'):
        PruningMapHook(num_images=0)


def test_sliding_windows_are_left_out(digits, tmp_path):
    """Several forwards per image: no picture, and no crash."""
    cfg = tiny_digits_config(digits, tmp_path)
    cfg.model.test_cfg = dict(
        mode='slide', crop_size=(48, 48), stride=(16, 16))
    Runner.from_cfg(cfg).test()
    assert not (tmp_path / 'pruning_maps').exists()


def test_a_folder_that_cannot_be_made(digits, tmp_path):
    """The run goes on, and says once why there are no pictures."""
    (tmp_path / 'file').write_text('')
    cfg = tiny_digits_config(digits, tmp_path)
    cfg.custom_hooks = [
        dict(type='mmcropr.PruningMapHook', out_dir=str(tmp_path / 'file'))]
    with mock.patch('mmcropr.engine.hooks.pruning_map_hook.print_log') as say:
        metrics = Runner.from_cfg(cfg).test()
    assert 'mIoU' in metrics
    said = [call.args[0] for call in say.call_args_list]
    assert len(said) == 1 and said[0].startswith('no further pruning maps: ')
    assert str(tmp_path / 'file') in said[0]


@pytest.mark.parametrize('channels, dtype', [
    (1, torch.uint8), (2, torch.float32), (4, torch.uint8), (5, torch.int32)])
def test_any_channels_and_names_that_come_again(tmp_path, channels, dtype):
    """Of two backbones, a student and its teacher, one sees the images."""
    first, second = (CroprViT(
        TINY, img_size=32, patch_size=8, in_channels=channels,
        reducer=dict(type='mmcropr.Random', keep=[9, 5], modules=[0, 1],
                     align=1)) for _ in range(2))
    runner = SimpleNamespace(
        model=nn.ModuleList([first, second]), work_dir=str(tmp_path), iter=0,
        visualizer=SimpleNamespace(_vis_backends={}))
    hook = PruningMapHook()
    images = (torch.rand(3, channels, 32, 32) * 200).to(dtype)
    samples = [SimpleNamespace(img_path=f'{folder}/001.jpg')
               for folder in ('cat', 'dog', 'fox')]
    for both in (True, False):  # the second draws over what the first drew
        hook.before_test_epoch(runner)
        second(images.float())
        if both:
            first(images.float())
        hook.after_test_iter(runner, 0, dict(inputs=list(images)), samples)
        hook.after_test_epoch(runner)
        assert hook._drawn == 3
    files = sorted((tmp_path / 'pruning_maps').iterdir())
    assert [f.name for f in files] == ['001-2.png', '001-3.png', '001.png']
    picture = mmcv.imread(str(files[-1]))
    assert picture.shape == (32, 96, 3)
    if dtype == torch.uint8:
        wanted = images[0, [0, 0, 0] if channels == 1 else [0, 1, 2]]
        assert (picture[:, :32] == wanted.permute(1, 2, 0).numpy()).all()
    else:
        assert picture[:, :32].min() == 0 and picture[:, :32].max() > 250
    second(images.float())
    assert not hook._removed, 'it listens no longer'
