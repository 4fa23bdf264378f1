# Copyright (c) mmcropr contributors.
"""What ``import mmcropr`` gives, and what it costs."""
import subprocess
import sys

import pytest

import mmcropr
from tests.utils import ROOT

HOSTS = ('mmseg', 'mmdet', 'mmpretrain')


def python(code: str) -> str:
    done = subprocess.run([sys.executable, '-c', code], capture_output=True,
                          text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_import_alone_brings_no_host():
    assert python('import sys, mmcropr; print(sorted(m for m in sys.modules '
                  f'if m in {HOSTS + ("mmcv", )}))') == '[]'


def test_names_of_the_api_without_any_host():
    """As where none is installed; heads of a missing one say so when built
    (test_hosts.py)."""
    names = ', '.join(sorted(set(mmcropr.__all__) - {'__version__'}))
    assert 'CroprViT' in names
    assert python(
        'import sys\n'
        f'sys.modules.update(dict.fromkeys({HOSTS}))\n'
        f'from mmcropr import {names}\n'
        "print(CroprViT(dict(family='vit', embed_dim=8, depth=3, num_heads=2),"
        " img_size=32, patch_size=16).lengths())").endswith('[]')


def test_each_name_is_there_and_no_other():
    for name in mmcropr.__all__:
        assert getattr(mmcropr, name) is not None
        assert name in dir(mmcropr)
    with pytest.raises(AttributeError, match="'mmcropr' has no attribute 'X'"):
        mmcropr.X


def test_a_host_that_fails_takes_no_other_along(tmp_path):
    """Such as mmpretrain beside transformers 5: a TypeError, and a second
    try would fail otherwise."""
    (tmp_path / 'mmpretrain').mkdir()
    for name, text in (('__init__', ''), ('models', 'class A(None): pass')):
        (tmp_path / 'mmpretrain' / f'{name}.py').write_text(text)
    assert python(
        f'import sys; sys.path.insert(0, {str(tmp_path)!r})\n'
        'from mmcropr.models import CroprSegHead, CroprClsHead\n'
        'try: CroprClsHead()\n'
        'except ImportError as error: print(error)').startswith(
            'mmcropr.CroprClsHead needs mmpretrain, which could not be '
            'imported: TypeError: NoneType takes no arguments')
