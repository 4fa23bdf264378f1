# Copyright (c) mmcropr contributors.
"""Shared by the tests: reference vectors, tiny models, tools as modules."""
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, Tuple

import torch
from safetensors import safe_open
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
VECTORS = ROOT / 'tests/data/vectors'
TINY = dict(family='vit', embed_dim=32, depth=4, num_heads=2)
TINY_EVA = dict(
    family='eva',
    embed_dim=32,
    depth=4,
    num_heads=2,
    qkv_fused=False,
    swiglu_mlp=True,
    scale_mlp=True,
    use_rot_pos_emb=True)


def load_tool(path: str) -> ModuleType:
    """Import a script under ``tools/`` as a module."""
    name = 'tool_' + Path(path).stem
    spec = importlib.util.spec_from_file_location(name, ROOT / 'tools' / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def load_vectors(name: str) -> Tuple[Dict[str, Any], Dict[str, Tensor]]:
    """Config and tensors of ``tests/data/vectors/<name>.safetensors``."""
    with safe_open(VECTORS / f'{name}.safetensors', 'pt') as file:
        config = json.loads(file.metadata()['config'])
        return config, {key: file.get_tensor(key) for key in file.keys()}


def group(tensors: Dict[str, Tensor], prefix: str) -> Dict[str, Tensor]:
    """Entries under a prefix, without it."""
    return {
        key[len(prefix):]: value
        for key, value in tensors.items() if key.startswith(prefix)
    }


def check_close(found: Tensor, wanted: Tensor, what: str = '') -> None:
    """Equal to 1e-4 of the largest reference value."""
    scale = wanted.abs().max().clamp(min=1e-6)
    error = ((found - wanted).abs().max() / scale).item()
    assert found.shape == wanted.shape, (what, found.shape, wanted.shape)
    assert error < 1e-4, (what, error)


def randomise_layer_scale(vit: torch.nn.Module) -> None:
    """LayerScale away from its tiny initial values, so that losing it shows."""
    for name, parameter in vit.named_parameters():
        if 'gamma' in name:
            torch.nn.init.uniform_(parameter, 0.3, 1.5)
