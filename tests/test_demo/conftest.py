# Copyright (c) mmcropr contributors.
import os
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from tests.utils import ROOT

NAME = 'cropr/cropr-tpr78_digits-eva_linear_1xb32-4e_digits-scenes-96x96.py'
sys.path.insert(0, str(ROOT / 'demo'))


class Evil:
    """Makes a folder when it is read."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.makedirs, (str(self.folder), 0o777, True)


@pytest.fixture
def evil(trained, tmp_path) -> tuple:
    """The same with a checkpoint that runs code, and what that makes."""
    content, path = torch.load(trained[1]), tmp_path / 'evil.pth'
    torch.save(dict(content, evil=Evil(tmp_path / 'made')), path)
    return trained[0], str(path), tmp_path / 'made'


@pytest.fixture(scope='session')
def trained(tmp_path_factory) -> tuple:
    """Config and checkpoint of a segmentor with random weights."""
    folder = Path(tmp_path_factory.mktemp('model'))
    cfg = Config.fromfile(ROOT / 'configs' / NAME)
    init_default_scope('mmseg')
    torch.manual_seed(0)
    classes = tuple(f'class {number}' for number in range(11))
    torch.save(
        dict(state_dict=MODELS.build(cfg.model).state_dict(), meta=dict(
            dataset_meta=dict(classes=classes, palette=[
                (9 * number, 0, 0) for number in range(11)]))),
        folder / 'model.pth')
    cfg.dump(folder / 'config.py')
    return str(folder / 'config.py'), str(folder / 'model.pth')
