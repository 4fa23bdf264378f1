# Copyright (c) mmcropr contributors.
"""Where queries can learn."""
import json

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmcropr.models import CroprDetector
from mmcropr.models.checks import find_backbone
from tests.utils import (load_tool, tiny_classifier_config,
                         tiny_detector_config, tiny_digits_config)

tool = load_tool('analysis_tools/probe_queries.py')
MAKE = dict(detector=tiny_detector_config, segmentor=tiny_digits_config,
            classifier=tiny_classifier_config)


def make(kind, digits, folder):
    cfg = MAKE[kind](digits, folder / 'run')
    cfg.dump(folder / 'a.py')
    return folder / 'a.py'


@pytest.mark.parametrize('kind', MAKE)
def test_queries_learn_behind_every_block(kind, digits, tmp_path, capsys):
    config = make(kind, digits, tmp_path)
    tool.main([str(config), '--iters', '40', '--lr', '0.01', '--json',
               str(tmp_path / 'a.json')])
    found = json.loads((tmp_path / 'a.json').read_text())
    depth = len(found['blocks'])
    assert [row['block'] for row in found['blocks']] == list(range(depth))
    assert depth == Config.fromfile(config).model.get(
        'detector', Config.fromfile(config).model).backbone.arch.depth - 2
    assert found['iters'] == [10, 20, 30, 40]
    for row in found['blocks']:
        assert 0 < row['losses'][-1] < row['losses'][0]
    said = capsys.readouterr().out
    assert said.count('queries behind block') == depth


def test_only_queries_learn(digits, tmp_path):
    cfg = tool.with_modules(Config.fromfile(
        make('detector', digits, tmp_path)))
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model)
    assert isinstance(model, CroprDetector)
    run = tool.Probe(model)
    learns = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learns and all('reducers.' in name or 'auxiliary_head.' in name
                          for name in learns)
    assert run.backbone.progress == (0, 1), 'nothing leaves'


def test_weights_of_another_model(digits, tmp_path):
    """Those of the backbone count, wherever they are, and its reducers do
    not."""
    cfg = Config.fromfile(make('segmentor', digits, tmp_path))
    init_default_scope('mmseg')
    source = MODELS.build(cfg.model)
    torch.save(dict(state_dict=source.state_dict()), tmp_path / 'a.pth')
    other = MODELS.build(tool.with_modules(cfg).model)
    own = find_backbone(other)
    queries = own.reducers[0].queries.clone()
    tool.load_backbone(own, str(tmp_path / 'a.pth'))
    assert torch.equal(own.vit.blocks[0].attn.proj.weight,
                       source.backbone.vit.blocks[0].attn.proj.weight)
    assert torch.equal(own.reducers[0].queries, queries)


def test_refusals(digits, tmp_path, capsys):
    config = make('segmentor', digits, tmp_path)
    torch.save(dict(state_dict={'backbone.x': torch.rand(1)}),
               tmp_path / 'b.pth')
    plain = Config.fromfile(config)
    plain.model.backbone.pop('reducer')
    plain.dump(tmp_path / 'plain.py')
    headless = Config.fromfile(config)
    headless.model.pop('auxiliary_head')
    headless.dump(tmp_path / 'headless.py')
    for words, text in (
            ([config, '--iters', 3], '--iters must be 4 or more'),
            ([config, tmp_path / 'b.pth'], 'is of another backbone'),
            ([config, tmp_path / 'c.pth'], 'c.pth'),
            ([tmp_path / 'plain.py'], "reducer=dict(type='mmcropr.Cropr'"),
            ([tmp_path / 'headless.py'], '0 auxiliary heads')):
        with pytest.raises(SystemExit):
            tool.main([str(word) for word in words])
        assert text in capsys.readouterr().err
