# Copyright (c) mmcropr contributors.
"""What ``import mmcropr`` gives, and what it does not load."""
import subprocess
import sys

import pytest

import mmcropr
from mmcropr.models.backbones import CroprViT
from mmcropr.models.necks import LLFNeck, PoolNeck
from mmcropr.structures import TokenState
from tests.utils import ROOT


def test_importing_loads_no_host():
    code = ('import sys, mmcropr; print(sorted({"mmcv", "mmdet", "mmseg", '
            '"mmpretrain"} & set(sys.modules)), "CroprViT" in dir(mmcropr))')
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.stdout.split('\n')[0] == '[] True', done.stderr


def test_names():
    for kind in (CroprViT, LLFNeck, PoolNeck, TokenState):
        assert getattr(mmcropr, kind.__name__) is kind
        assert kind.__name__ in mmcropr.__all__


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="'mmcropr' has no attribute "
                       "'CroprVit'"):
        mmcropr.CroprVit  # noqa: B018
