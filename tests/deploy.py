# Copyright (c) mmcropr contributors.
"""Shared by the tests of deployment."""
from pathlib import Path
from typing import Tuple

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmcropr.deploy.formats import check_packages, check_torch


def skip_without(*names: str) -> None:
    """Skip a module of tests where torch or a package is missing."""
    try:
        check_torch()
        check_packages(names, 'this test')
    except ImportError as error:
        pytest.skip(str(error), allow_module_level=True)


def save(cfg: Config, folder: Path) -> Tuple[Path, Path]:
    """Config file, and a checkpoint of random weights that score and classify
    patches differently."""
    torch.manual_seed(0)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    model.init_weights()
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.2)
    config, checkpoint = folder / 'config.py', folder / 'epoch_1.pth'
    cfg.dump(config)
    meta = dict(dataset_meta=dict(classes=[f'class{i}' for i in range(11)]))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), checkpoint)
    return config, checkpoint
