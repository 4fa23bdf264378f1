# Copyright (c) mmcropr contributors.
import sys

import pytest
from mmengine.config import Config

from mmcropr.utils.versions import check_hosts


@pytest.mark.parametrize('cfg', [
    dict(default_scope='mmpretrain'),
    dict(model=dict(heads=[dict(type='mmpretrain.LinearClsHead')])),
])
def test_a_missing_host_is_named(monkeypatch, cfg):
    monkeypatch.setitem(sys.modules, 'mmpretrain', None)
    with pytest.raises(ImportError, match='needs mmpretrain, which cannot'):
        check_hosts(Config(cfg))
    check_hosts(Config(dict(default_scope='mmseg')))
