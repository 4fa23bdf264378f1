# Copyright (c) mmcropr contributors.
"""Small digits scenes, and what their files hold."""
import json
from pathlib import Path
from typing import Dict

import cv2
import numpy as np
import pytest
from pytest import CaptureFixture

from tests.utils import load_tool

SMALL = ('--size 48 64 --digit-size 16 24 --num-train 6 --num-val 3 '
         '--clutter .3').split()
COUNTS = dict(train=6, val=3)
tool = load_tool('dataset_converters/digits_scenes.py')


def make(out: Path, *extra: str) -> Path:
    tool.main([str(out), *SMALL, *extra])
    return out


def refusal(capsys: CaptureFixture, out: Path, *extra: str) -> str:
    with pytest.raises(SystemExit) as stop:
        make(out, *extra)
    assert stop.value.code == 2
    # Without the usage, which names every option.
    return capsys.readouterr().err.split('error: ')[1]


def contents(root: Path) -> Dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob('*')) if path.is_file()
    }


def read_all(root: Path, kind: str) -> np.ndarray:
    paths = sorted((root / kind).rglob('*.png'))
    return np.stack([cv2.imread(str(path), -1) for path in paths])


def read_coco(root: Path, split: str) -> dict:
    path = root / f'annotations/instances_{split}.json'
    return json.loads(path.read_text())
