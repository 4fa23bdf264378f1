# Copyright (c) mmcropr contributors.
"""Configs that change the backbone of one of a host's, as README and docs
have them: each builds, with parts that fit together."""
import re
from pathlib import Path
from typing import List

import mmseg
import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from mmcropr.models.checks import check_model
from tests.utils import ROOT

PAGE = ROOT / 'docs/en/user_guides/swap_backbone.md'


def blocks(path) -> List[str]:
    return re.findall(r'```python\n(.*?)```', path.read_text(), re.S)


def children(path) -> List[str]:
    """Configs on a page that change something of their base."""
    return [b for b in blocks(path) if '_base_ = ' in b and 'model = ' in b]


CONFIGS = [*children(ROOT / 'README.md'), *children(PAGE)]


def test_all_are_found():
    assert [('EncoderDecoder' in c, 'CroprDetector' in c, 'CroprClassifier' in
             c) for c in CONFIGS] == [
        (True, False, False), (False, False, False), (True, False, False),
        (False, True, False), (False, False, True)]  # yapf: disable
    assert len(children(PAGE)) == len(blocks(PAGE)) - 4  # 3 before, 1 in all


@pytest.mark.parametrize('text', CONFIGS, ids=range(len(CONFIGS)))
def test_they_build(text, tmp_path):
    in_all = next(b for b in blocks(PAGE) if b.startswith('optim_wrapper'))
    path = tmp_path / 'config.py'
    host = Path(mmseg.__file__).parent / '.mim/configs/vit'
    path.write_text(re.sub(
        "_base_ = '(vit_vit-)", f"_base_ = '{host}/\\1",
        text.replace('pretrained=True', 'pretrained=False') + in_all))
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    data = cfg.get('data_preprocessor')
    if data is not None:  # of mmpretrain, as its runner has it
        cfg.model.setdefault('data_preprocessor', data)
    model = MODELS.build(cfg.model)
    check_model(model)
    assert any(type(m).__name__ == 'CroprViT' for m in model.modules())
    build_optim_wrapper(model, cfg.optim_wrapper)
    hooks = cfg.default_hooks
    wanted = set(re.findall(r"(\w+)=dict\(type='mmcropr\.\w+Hook'",
                            text + in_all))
    assert {'curriculum', 'model_check', 'token_log',
            'finite_loss'} <= wanted <= set(hooks), (
        'a later default_hooks has dropped those of an earlier one')
    assert 'timer' in hooks, 'hooks of the host are gone'
