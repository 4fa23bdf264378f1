# Copyright (c) mmcropr contributors.
"""Every shipped config as TensorRT takes it: TopK with constants of at most
3840, and no operator whose shape depends on values."""
import ast
import copy
import functools
from typing import Dict, List

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch.utils._python_dispatch import TorchDispatchMode

from mmcropr.utils.build import plain_model
from tests.test_config_files import CONFIGS
from tests.utils import ROOT

LARGEST = 3840


class Selections(TorchDispatchMode):
    """Notes how many places every TopK takes; a sort takes all. Raises where
    a value, or a shape that depends on values, is asked for."""

    def __init__(self):
        super().__init__()
        self.counts: List[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        depends = {torch.Tag.data_dependent_output,
                   torch.Tag.dynamic_output_shape} & set(func.tags)
        if name == 'index':  # by numbers it has the shape of these
            depends = any(x is not None and x.dtype is torch.bool
                          for x in args[1])
        if depends:
            raise RuntimeError(f'{name} depends on values')
        if name == 'topk':
            self.counts.append(args[1])
        elif name == 'sort':
            dims = [x for x in (*args[1:], kwargs.get('dim'))
                    if isinstance(x, int) and not isinstance(x, bool)]
            self.counts.append(args[0].shape[dims[0] if dims else -1])
        return func(*args, **kwargs)


def selections(module: torch.nn.Module, size: tuple) -> List[int]:
    """Of one forward."""
    seen = Selections()
    with torch.no_grad(), seen:
        module(torch.zeros(1, 3, *size))
    return seen.counts


@functools.lru_cache(None)
def sizes_of(arch: str) -> tuple:
    """Blocks, prefix tokens and patch size of a config's ``arch``."""
    arch = ast.literal_eval(arch)
    arch = dict(name=arch) if isinstance(arch, str) else arch
    vit = MODELS.build(
        dict(type='mmcropr.CroprViT', arch=dict(arch, embed_dim=32,
                                                num_heads=2))).vit
    return len(vit.blocks), vit.num_prefix_tokens, vit.patch_embed.patch_size


def tiny(backbone: dict) -> dict:
    """Config of a narrow backbone that selects as many tokens of as many, in
    as many blocks, whatever else it is."""
    depth, num_prefix, patch = sizes_of(repr(backbone['arch']))
    patch = (backbone['patch_size'], ) * 2 if 'patch_size' in backbone else (
        patch)
    size = backbone['img_size']
    size = (size, size) if isinstance(size, int) else size
    reducer = copy.deepcopy(backbone['reducer'])
    for part in reducer if isinstance(reducer, list) else [reducer]:
        part.pop('num_queries', None)
        if part.get('num_heads'):
            part['num_heads'] = 1
    arch = dict(family='vit', embed_dim=16, depth=depth, num_heads=1,
                mlp_ratio=1, class_token=num_prefix > 0,
                reg_tokens=max(num_prefix - 1, 0))
    return dict(
        type='mmcropr.CroprViT', arch=arch, patch_size=2, reducer=reducer,
        out_type='tokens', fuse_at=backbone.get('fuse_at', -1),
        img_size=tuple(2 * n // p for n, p in zip(size, patch)))


def backbones() -> Dict[str, tuple]:
    """Narrow backbones -> one config of all that share them."""
    found = {}
    for name in CONFIGS:
        model = plain_model(Config.fromfile(ROOT / name).model)
        if model.backbone.get('reducer'):
            backbone = tiny(model.backbone.to_dict())
            found[str(backbone)] = (name, backbone)
    return found


def test_selections_are_seen():
    """Too many places, and a shape that depends on values."""
    class Sorts(torch.nn.Module):
        def forward(self, image):
            return image.flatten(1).argsort(dim=1)

    class Picks(torch.nn.Module):
        def forward(self, image):
            return image[image > 0]

    assert selections(Sorts(), (64, 64)) == [3 * 64 * 64]
    with pytest.raises(RuntimeError, match='depends on values'):
        selections(Picks(), (4, 4))


@pytest.mark.filterwarnings('ignore')
def test_every_config():
    """Tokens and places are as many as in the shipped config, channels few.
    What fuses and pools selects nothing."""
    init_default_scope('mmseg')
    wrong, entries = {}, backbones()
    for name, backbone in entries.values():
        module = MODELS.build(backbone)
        module.switch_to_deploy()
        counts = selections(module, backbone['img_size'])
        if not all(isinstance(k, int) and 0 < k <= LARGEST for k in counts):
            wrong[name] = counts
    assert len(entries) > 30
    assert not wrong
