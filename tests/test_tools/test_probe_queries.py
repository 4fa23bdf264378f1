# Copyright (c) mmcropr contributors.
"""Where queries can learn."""
import copy
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
    """Config and checkpoint of a model that has its own queries, too."""
    cfg = MAKE[kind](digits, folder / 'run')
    cfg.dump(folder / 'a.py')
    init_default_scope(cfg.default_scope)
    torch.manual_seed(3)
    model = MODELS.build(copy.deepcopy(cfg.model))
    torch.save(dict(state_dict=model.state_dict()), folder / 'a.pth')
    return str(folder / 'a.py'), str(folder / 'a.pth')


@pytest.mark.parametrize('kind', MAKE)
def test_losses_of_every_block(kind, digits, tmp_path, capsys):
    files = make(kind, digits, tmp_path)
    capsys.readouterr()
    tool.main([*files, '--iters', '20', '--lr', '0.01', '--json',
               str(tmp_path / 'a.json')])
    found = json.loads((tmp_path / 'a.json').read_text())
    model = Config.fromfile(files[0]).model
    # Tokens that nobody puts back may leave one block later
    count = model.get('detector', model).backbone.arch.depth - (
        1 if kind == 'classifier' else 2)
    assert [row['block'] for row in found['blocks']] == list(range(count))
    assert found['iters'] == [1, 5, 10, 15, 20]
    assert found['checkpoint'] == files[1] and found['lr'] == .01
    for row in found['blocks']:
        assert 0 < row['losses'][-1] < row['losses'][0]
        assert row['random'] > 0 and row['random'] != row['losses'][-1]
        assert row['gain'] == pytest.approx(
            row['random'] - row['losses'][-1], abs=1e-5)
        assert 0 < row['error'] < row['losses'][0]
    said, told = capsys.readouterr()
    assert 'was trained with a reducer' in told
    assert said.count('queries behind block') == count
    assert len(said.splitlines()) < 20, 'and not what hosts log'


def test_queries_learn_where_there_is_something_to_learn():
    """The patch of one place says the class, among others of its kind: queries
    that learn find it."""
    torch.manual_seed(0)
    init_default_scope('mmpretrain')
    model = MODELS.build(dict(
        type='mmcropr.CroprClassifier',
        data_preprocessor=dict(
            type='ClsDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3),
        backbone=dict(
            type='mmcropr.CroprViT', img_size=64, patch_size=8,
            arch=dict(family='vit', embed_dim=32, depth=3, num_heads=2),
            out_type='tokens', reducer=dict(type='mmcropr.Cropr', tpr=.5)),
        neck=dict(type='mmcropr.PoolNeck'),
        head=dict(type='mmcropr.CroprClsHead', num_classes=2)))
    torch.nn.init.normal_(model.backbone.vit.pos_embed)
    run = tool.Probe(model)
    before = {name: p.clone() for name, p in model.named_parameters()}
    random = [p.clone() for p in run.random.parameters()]
    optimizer = torch.optim.AdamW(
        (p for p in run.parameters() if p.requires_grad), .01)
    for _ in range(150):
        learned, control = run(patches(64))
        optimizer.zero_grad()
        sum(learned + control).backward()
        optimizer.step()
    assert learned[0] < .5 * control[0]
    changed = {name for name, p in model.named_parameters()
               if not torch.equal(p, before[name])}
    assert 'backbone.reducers.0.queries' in changed
    assert all('reducers.' in name or 'auxiliary' in name for name in changed)
    assert all(map(torch.equal, random, run.random.parameters()))


def patches(count):
    """Images of 64 px with black and white patches of 8, of which one is the
    label."""
    from mmpretrain.structures import DataSample
    cells = torch.randint(2, (count, 1, 8, 8), dtype=torch.uint8)
    images = 255 * cells.repeat_interleave(8, 2).repeat_interleave(8, 3)
    return dict(inputs=list(images.expand(-1, 3, -1, -1)), data_samples=[
        DataSample().set_gt_label(int(cell[0, 3, 3])) for cell in cells])


def test_nothing_leaves_and_only_queries_learn(digits, tmp_path):
    cfg = tool.with_modules(Config.fromfile(
        make('detector', digits, tmp_path)[0]))
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model)
    assert isinstance(model, CroprDetector)
    run = tool.Probe(model)
    learns = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learns and all('reducers.' in name or 'auxiliary_head.' in name
                          for name in learns)
    assert run.backbone.progress == (0, 1)
    assert not run.backbone.vit.training and run.backbone.training


def test_weights_of_a_trained_model(digits, tmp_path):
    """Those of the backbone, wherever it is, and its reducers do not count.
    """
    files = make('detector', digits, tmp_path)
    source = torch.load(files[1])['state_dict']
    cfg = tool.with_modules(Config.fromfile(files[0]))
    own = find_backbone(MODELS.build(cfg.model))
    queries = own.reducers[0].queries.clone()
    tool.load_backbone(own, files[1])
    name = 'vit.blocks.0.attn.proj.weight'
    wanted, = (value for key, value in source.items() if key.endswith(name))
    assert torch.equal(own.state_dict()[name], wanted)
    assert torch.equal(own.reducers[0].queries, queries)


def change(files, out, **parts):
    cfg = Config.fromfile(files[0])
    for place, part in parts.items():
        owner = cfg.model.backbone if place == 'reducer' else cfg.model
        owner.pop(place) if part is None else owner.update({place: part})
    cfg.dump(out)
    return str(out)


def test_refusals(digits, tmp_path, capsys):
    files = make('segmentor', digits, tmp_path)
    config, checkpoint = files
    state = torch.load(checkpoint)['state_dict']
    other = {key: value for key, value in state.items() if 'blocks.0' not in
             key}
    two = {**state, **{f'teacher.{k}': v for k, v in state.items()}}
    bare = {key[len('backbone.vit.'):]: value for key, value in state.items()
            if key.startswith('backbone.vit.')}
    for name, content in dict(other=other, two=two, bare=bare).items():
        torch.save(dict(state_dict=content), tmp_path / f'{name}.pth')
    plain = change(files, tmp_path / 'plain.py', reducer=None)
    random = change(files, tmp_path / 'random.py',
                    reducer=dict(type='mmcropr.Random', rate=8))
    headless = change(files, tmp_path / 'headless.py', auxiliary_head=None)
    for words, text in (
            ([config, '--iters', 19], '--iters must be 20 or more'),
            ([config, '--lr', 0], '--lr must be above 0'),
            ([config], 'queries of random features say nothing'),
            ([config, tmp_path / 'other.pth'], 'is of another backbone'),
            ([config, tmp_path / 'two.pth'], 'has 2 CroprViT backbones '
                                             '(backbone., teacher.backbone.)'),
            ([config, tmp_path / 'bare.pth'], "pretrained='FILE'"),
            ([config, tmp_path / 'none.pth'], 'error: no checkpoint at'),
            ([plain, checkpoint], "reducer=dict(type='mmcropr.Cropr'"),
            ([random, checkpoint], "reducer=dict(type='mmcropr.Cropr'"),
            ([headless, checkpoint], 'add auxiliary_head=dict('),
            ([config, checkpoint, '--cfg-options',
              'train_dataloader.dataset.data_root=/nowhere'], '/nowhere')):
        with pytest.raises(SystemExit):
            tool.main([str(word) for word in words])
        assert text in capsys.readouterr().err
