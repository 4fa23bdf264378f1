# Copyright (c) mmcropr contributors.
"""Files of the configs: short, named after what they say, and their sizes fit
together."""
import ast
import re
from pathlib import Path
from typing import List, Optional, Tuple

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from torch import nn

from mmcropr.models.reducers import Cropr
from tests.utils import ROOT

CONFIGS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.glob('configs/*/*.py') if path.parent.name != '_base_')


def test_there_are_configs():
    names = ' '.join(CONFIGS)
    for method in ('cropr-r40', 'random', 'variance', 'attn-topk',
                   'non-salient', 'no_pruning'):
        assert f'{method}' in names
    for trunk in ('eva02-l', 'vit-b', 'vit-l', 'dinov2-b', 'digits-eva'):
        assert trunk in names
    assert 'cityscapes-768x768' in names


@pytest.mark.parametrize('name', CONFIGS)
def test_leaf(name):
    lines = [
        line for line in (ROOT / name).read_text().splitlines()
        if line and not line.startswith('#')
    ]
    assert len(lines) <= 26, 'a leaf holds differences only'
    assert all(len(line) < 80 for line in lines)
    cfg = Config.fromfile(ROOT / name)
    assert 'mmcropr' in cfg.custom_imports['imports']
    assert cfg.default_hooks.model_check.type == 'mmcropr.ModelCheckHook'


def own_bases(path: Path) -> List[Path]:
    """Files that a config names as its bases, those of mmdet left out."""
    bases = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(
                node.targets[0], 'id', None) == '_base_':
            bases = ast.literal_eval(node.value)
    bases = [bases] if isinstance(bases, str) else bases
    return [path.parent / base for base in bases if '::' not in base]


def levels(path: Path) -> int:
    return max((1 + levels(base) for base in own_bases(path)), default=0)


@pytest.mark.parametrize('name', CONFIGS)
def test_bases(name):
    """With pruning it is the twin without, or a Cropr config that is varied:
    three levels, or four."""
    path = ROOT / name
    if path.parent.name == 'no_pruning':
        assert levels(path) <= 2
    else:
        base, = own_bases(path)
        assert base.resolve().parent.name in ('no_pruning', 'cropr', 'tome')
        varied = base.resolve().parent.name != 'no_pruning'
        assert levels(path) <= 3 + varied
        assert base.stem.endswith(path.stem.split('_', 1)[1])


def check_name(name: str, rate_of_config: Optional[int], lengths: List[int],
               ratio: float) -> None:
    """``rN`` leave per module (or that many after ``keep``), ``keepN-N`` are
    left, ``tprN`` % leave."""
    field = Path(name).stem.split('_')[0]
    keep = re.search(r'-keep(\d+(?:-\d+)*)', field)
    rate, tpr = re.search(r'-r(\d+)', field), re.search(r'-tpr(\d+)', field)
    assert keep or rate or tpr
    if keep:
        given = [int(number) for number in keep[1].split('-')]
        assert lengths[:len(given)] == given
        assert rate or len(given) == len(lengths)
    if rate and keep:
        assert {a - b for a, b in zip(lengths, lengths[1:])} == {int(rate[1])}
    elif rate:
        assert int(rate[1]) == rate_of_config
    if tpr:
        assert ratio == pytest.approx(int(tpr[1]) / 100, abs=0.005)


def backbone_of(model: ConfigDict,
                monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The real one, without memory for its weights."""
    # timm reads numbers off it while it builds, which meta tensors have not.
    linspace = torch.linspace
    monkeypatch.setattr(torch, 'linspace', lambda *args, **kwargs: linspace(
        *args, **dict(kwargs, device='cpu')))
    with torch.device('meta'):
        return MODELS.build(model.backbone)


def main_head(model: ConfigDict) -> Tuple[ConfigDict, int]:
    """What reads the backbone's channels, and the number of classes."""
    if model.type == 'DepthEstimator':
        pyramid = isinstance(model.neck, list)
        width, = set(model.decode_head.in_channels)
        return (model.neck[1] if pyramid else
                ConfigDict(in_channels=width)), None
    if 'panoptic_head' in model:
        head = model.panoptic_head
        return head, head.num_things_classes + head.num_stuff_classes
    if isinstance(model.get('neck'), list):  # of a detector
        classes = re.search(r"num_classes': (\d+)", str(model.to_dict()))[1]
        return model.neck[1], int(classes)
    head = model.get('decode_head', model.get('head'))
    return head, head.num_classes


@pytest.mark.parametrize('name', CONFIGS)
def test_sizes_fit_together(name, monkeypatch):
    """Of the real config: queries, modules, channels and classes, and the
    numbers in its name."""
    whole = Config.fromfile(ROOT / name).model
    model = whole.get('detector', whole)
    backbone, (main, classes) = backbone_of(
        model, monkeypatch), main_head(model)
    dim, (height, width) = backbone.trunk.embed_dim, backbone.trunk.grid
    assert main.get('in_channels', dim) == dim
    if not backbone.reducers:
        return
    lengths = backbone.schedule.lengths()
    if 'align' not in str(model.backbone.reducer):
        assert all(length % 8 == 0 for length in lengths)
    reducer = model.backbone.reducer
    rate = None if isinstance(reducer, list) else reducer.get('rate')
    check_name(name, rate, lengths, 1 - lengths[-1] / (height * width))
    if 'in1k' in name:
        assert (model.backbone.get('fuse_at', -1) is not None) == (
            'no-llf' not in name)
    queries = [len(r.queries) for r in backbone.reducers
               if isinstance(r, Cropr)]  # yapf: disable
    if queries:
        head = whole.get('auxiliary_head', model.get('head'))
        # What is left out follows from the backbone
        sizes = dict(num_modules=len(queries), in_channels=dim,
                     num_classes=classes)
        given = {key: head.get(key, size) for key, size in sizes.items()}
        assert given == sizes
        per_patch = 'decode_head' in model and 'one-query' not in name
        wanted = height * width if per_patch else 1
        assert set(queries) == {wanted}


def test_readme_and_makefile_name_existing_files():
    text = (ROOT / 'README.md').read_text() + (ROOT / 'Makefile').read_text()
    for word in text.replace('`', ' ').split():
        if word.startswith(('configs/', 'tools/')) and '.' in word:
            path = word.strip('.,:;()')
            if not set('$<*{[') & set(path):
                assert Path(ROOT / path).exists(), path
