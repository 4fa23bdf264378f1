# Copyright (c) mmcropr contributors.
"""Which starting weights are taken, and which refused before training."""
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model import BaseModule, PretrainedInit
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmcropr.utils.checkpoint import check_checkpoint, check_init
from tests.utils import tiny_detector_config, tiny_digits_config


def start(model: nn.Module, file: Path, state: dict, **options: Any) -> None:
    torch.save(dict(state_dict=state), file)
    model.init_cfg = dict(type='Pretrained', checkpoint=str(file), **options)


@pytest.fixture
def segmentor(digits, tmp_path):
    init_default_scope('mmseg')
    return MODELS.build(tiny_digits_config(digits, tmp_path).model)


@pytest.mark.parametrize('front', ['', 'module.'])
def test_whole_checkpoints(segmentor, tmp_path, front):
    state = {front + k: v for k, v in segmentor.state_dict().items()}
    start(segmentor, tmp_path / 'x.pth', state)
    check_init(segmentor)


def test_prefix(segmentor, tmp_path):
    state = segmentor.state_dict()
    start(segmentor.backbone, tmp_path / 'x.pth', state, prefix='backbone')
    check_init(segmentor)
    segmentor.backbone.init_cfg['prefix'] = 'decode_head'
    with pytest.raises(ValueError, match='init_cfg of backbone .* gives 0 of'):
        check_init(segmentor)


@pytest.mark.parametrize('kind', ['Pretrained', PretrainedInit])
def test_foreign_file(segmentor, tmp_path, kind):
    start(segmentor, tmp_path / 'x.pth', {'x': torch.ones(1)})
    segmentor.init_cfg['type'] = kind
    with pytest.raises(ValueError, match='init_cfg of the model .* gives 0'):
        check_init(segmentor)


def test_weights_of_a_vit_of_the_host(segmentor, tmp_path):
    vit = MODELS.build(dict(
        type='VisionTransformer', img_size=96, embed_dims=32, num_layers=2,
        num_heads=2))
    state = {f'backbone.{k}': v for k, v in vit.state_dict().items()}
    start(segmentor, tmp_path / 'x.pth', state)
    with pytest.raises(ValueError, match="names of a transformer of mmseg"):
        check_init(segmentor)


def test_plain_detector_for_a_wrapped_one(digits, tmp_path):
    init_default_scope('mmdet')
    model = MODELS.build(tiny_detector_config(digits, tmp_path).model)
    start(model, tmp_path / 'x.pth', model.detector.state_dict())
    check_init(model)


@pytest.mark.parametrize('patches, good', [(144, True), (64, True),
                                           (24, False), (0, False)])
def test_positions_of_another_image_size(segmentor, tmp_path, patches, good):
    """What a strict load resamples passes, what it cannot is refused."""
    state, key = segmentor.state_dict(), 'backbone.vit.pos_embed'
    state[key] = torch.zeros(1, 1 + patches, state[key].shape[2])
    torch.save(dict(state_dict=state), tmp_path / 'x.pth')
    if good:
        check_checkpoint(segmentor, str(tmp_path / 'x.pth'))
        segmentor.load_state_dict(state)
        return
    with pytest.raises(ValueError, match='1 have another shape .*pos_embed'):
        check_checkpoint(segmentor, str(tmp_path / 'x.pth'))


def test_own_readers_of_hosts_are_left_to_them(tmp_path):
    """As Swin's, which renames the keys of the file."""

    class Host(BaseModule):

        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(1, 1)

        def init_weights(self) -> None:
            self.fc.bias.data.fill_(1)

    model = Host()
    start(model, tmp_path / 'x.pth', {'layers.fc.weight': torch.ones(1, 1)})
    check_init(model)
    del Host.init_weights
    with pytest.raises(ValueError, match='gives 0 of the 2 weights'):
        check_init(model)
