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
from torch._subclasses.fake_tensor import (DynamicOutputShapeException,
                                           FakeTensorMode)
from torch.utils._python_dispatch import TorchDispatchMode

from mmcropr.models import LLFNeck, PoolNeck
from mmcropr.utils.build import plain_model
from tests.test_config_files import CONFIGS
from tests.utils import ROOT, TINY

LARGEST = 3840


class Selections(TorchDispatchMode):
    """Notes how many places every TopK takes; a sort takes all."""

    def __init__(self):
        super().__init__()
        self.counts: List[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name == 'topk':
            self.counts.append(args[1])
        elif name == 'sort':
            kwargs = kwargs or {}
            dim = kwargs.get('dim', args[1] if len(args) > 1 else -1)
            dim = kwargs.get('dim', -1) if isinstance(dim, bool) else dim
            self.counts.append(args[0].shape[dim])
        return func(*args, **(kwargs or {}))


def selections(module: torch.nn.Module, size: tuple) -> List[int]:
    """Of one forward on fake tensors, as exporters trace it: whatever asks
    for a value raises."""
    seen = Selections()
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with torch.no_grad(), fake, seen:
        module(torch.empty(2, 3, *size))
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
            part['num_heads'] = 2
    arch = dict(TINY, depth=depth, class_token=num_prefix > 0,
                reg_tokens=max(num_prefix - 1, 0))
    same = {k: v for k, v in backbone.items()
            if k in ('type', 'out_type', 'out_indices', 'fuse_at')}
    return dict(
        same, arch=arch, patch_size=2, reducer=reducer,
        img_size=tuple(2 * n // p for n, p in zip(size, patch)))


def backbones() -> Dict[str, tuple]:
    """Backbone and neck -> one config of all that share them."""
    found = {}
    for name in CONFIGS:
        model = plain_model(Config.fromfile(ROOT / name).model)
        if not model.backbone.get('reducer'):
            continue
        backbone = tiny(model.backbone.to_dict())
        neck = model.get('neck')
        neck = neck[0] if isinstance(neck, list) else neck
        pooled = dict(neck) if neck and 'PoolNeck' in neck['type'] else None
        found[str((backbone, pooled))] = (name, backbone, pooled)
    return found


def encoder(backbone: dict, neck: dict) -> torch.nn.Module:
    backbone = MODELS.build(backbone).eval()
    backbone.switch_to_deploy()
    if neck is not None:
        neck = PoolNeck(**{k: v for k, v in neck.items() if k != 'type'})
    elif backbone.out_type == 'tokens':
        neck = LLFNeck()
    return torch.nn.Sequential(backbone, neck or torch.nn.Identity())


def test_selections_are_seen():
    """Too many places, and a shape that depends on values."""
    class Sorts(torch.nn.Module):
        def forward(self, image):
            return image.flatten(1).argsort(dim=1)

    class Picks(torch.nn.Module):
        def forward(self, image):
            return image[image > 0]

    assert selections(Sorts(), (64, 64)) == [3 * 64 * 64]
    with pytest.raises(DynamicOutputShapeException):
        selections(Picks(), (4, 4))


@pytest.mark.filterwarnings('ignore')
def test_every_config():
    init_default_scope('mmseg')
    wrong, entries = {}, backbones()
    for name, backbone, neck in entries.values():
        module = encoder(backbone, neck)
        size = module[0].vit.patch_embed.img_size
        counts = selections(module, size)
        if any(not isinstance(k, int) or not 0 < k <= LARGEST
               for k in counts):
            wrong[name] = max(counts)
    assert len(entries) > 30
    assert not wrong
