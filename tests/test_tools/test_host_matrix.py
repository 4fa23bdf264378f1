# Copyright (c) mmcropr contributors.
"""A sample of docs/en/notes/hosts.md, tried again."""
import re
import sys

import pytest

from tests.utils import ROOT, load_tool

sys.path.insert(0, str(ROOT / 'tools/analysis_tools'))
matrix = load_tool('analysis_tools/host_matrix.py')
from host_configs import FAMILIES, Family, family_of  # noqa: E402

ROWS = {}
for host, part in re.findall(r'^## (\w+)\n(.*?)(?=^## |\Z)',
                             (ROOT / 'docs/en/notes/hosts.md').read_text(),
                             re.M | re.S):
    for name, config, result in re.findall(
            r'^\| (\w+) \| `(\S+)` \| ([^|]+) \|', part, re.M):
        ROWS[host, name] = (config, result)


@pytest.mark.parametrize('host, name', [
    ('mmdet', 'retinanet'), ('mmdet', 'mask2former'), ('mmdet', 'tridentnet'),
    ('mmdet', 'bytetrack'), ('mmdet', 'rpn'), ('mmseg', 'APCHead'),
    ('mmseg', 'DPTHead'),
    ('mmseg', 'SETRUPHead'), ('mmpretrain', 'StackedLinearClsHead'),
    ('mmpretrain', 'CSRAClsHead'), ('mmpretrain', 'BEiTV1Head'),
])
def test_rows(host, name):
    config, result = ROWS[host, name]
    found = matrix.examine(family_of(host, name, config))
    assert found.result == result, found.note


def test_detectors_are_all_in_the_table():
    """Of mmdet, whose configs are read in seconds; forks have no fewer."""
    names = {name for host, name in ROWS if host == 'mmdet'}
    assert {family.name for family in FAMILIES['mmdet']()} <= names


def test_models_that_fail():
    broken = dict(type='EncoderDecoder', backbone=dict(type='NoBackbone'),
                  decode_head=dict(type='FCNHead', in_channels=8, channels=8,
                                   num_classes=5, in_index=0))
    row = matrix.examine(Family('mmseg', 'x', 'x.py', dict(
        broken, decode_head=dict(broken['decode_head'], typo=1))))
    assert row.result == 'fails with its own backbone'
    assert "'NoBackbone" in row.note or 'NoBackbone is not' in row.note
    assert 'with CroprViT' in row.note and 'typo' in row.note


def test_table():
    row = matrix.Row('mmseg', 'AHead', 'a/a.py', 'works', '')
    text = matrix.table([row, row._replace(host='mmdet')])
    assert text.count('| AHead | `a/a.py` | works |  |') == 2
    assert text.index('## mmseg') < text.index('## mmdet')


def test_says_of_an_error_without_words():
    try:
        raise AssertionError
    except AssertionError as error:
        assert matrix.says(error).startswith(
            'AssertionError: test_host_matrix.py, line ')
