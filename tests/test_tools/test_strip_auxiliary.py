# Copyright (c) mmcropr contributors.
import copy
import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from mmcropr.models import CroprDetector, CroprViT
from tests.utils import (forget_globals, load_tool, logged,
                         tiny_classifier_config, tiny_detector_config,
                         tiny_digits_config)

tool = load_tool('model_converters/strip_auxiliary.py')


@pytest.fixture(scope='module', params=['detector', 'segmentor', 'classifier'])
def trained(request, digits, tmp_path_factory):
    """Config and checkpoint of a short run through the runner."""
    folder = tmp_path_factory.mktemp('strip')
    make = dict(
        detector=tiny_detector_config, segmentor=tiny_digits_config,
        classifier=tiny_classifier_config)[request.param]
    cfg = make(digits, folder / 'run', train_cfg__max_epochs=1,
               train_cfg__val_interval=1)
    cfg.dump(folder / 'trained.py')
    Runner.from_cfg(cfg).train()
    forget_globals()
    return folder / 'trained.py', folder / 'run/epoch_1.pth'


def run(monkeypatch, *args):
    monkeypatch.setattr(sys, 'argv', ['strip', *map(str, args)])
    tool.main()


def test_strip(trained, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'new/plain'
    run(monkeypatch, *trained, out)
    assert 'bit-equal' in capsys.readouterr().out
    cfg = Config.fromfile(out / 'trained.py')
    text = cfg.pretty_text
    for word in ('CroprDetector', 'auxiliary_head', 'CroprClsHead',
                 'PruningCurriculumHook',
                 'optim_wrapper', 'train_dataloader'):
        assert word not in text, word
    checkpoint = torch.load(
        out / 'trained.pth', map_location='cpu', weights_only=True)
    state = checkpoint['state_dict']
    assert not [k for k in state if 'auxiliary' in k or 'detector' in k]
    assert cfg.model.backbone.reducer.num_queries == 1
    init_default_scope(cfg.default_scope)
    plain = MODELS.build(cfg.model)
    assert set(plain.state_dict()) == set(state), 'nothing missing or more'
    plain.load_state_dict(state)
    assert not isinstance(plain, CroprDetector)
    assert checkpoint['meta']['dataset_meta']['classes']
    original = torch.load(
        trained[1], map_location='cpu', weights_only=False)['state_dict']
    assert any('auxiliary' in k for k in original)
    queries = [k for k in original if k.endswith('.queries')]
    for key in queries:
        assert state[key.replace('detector.', '')].equal(
            original[key].sum(0, keepdim=True))


def test_dynamic_vit(digits, tmp_path, monkeypatch):
    """A head without weights, and a reducer whose weights stay. The teacher
    is not there any more."""
    cfg = tiny_digits_config(digits, tmp_path / 'run',
                             train_cfg__max_epochs=1,
                             train_cfg__val_interval=1)
    teacher = copy.deepcopy(cfg)
    teacher.model.backbone.reducer = teacher.model.auxiliary_head = None
    teacher.dump(tmp_path / 'teacher.py')
    init_default_scope('mmseg')
    weights = MODELS.build(teacher.model).state_dict()
    torch.save(dict(state_dict=weights), tmp_path / 'teacher.pth')
    cfg.model.backbone.reducer = dict(type='mmcropr.DynamicViT', rate=12)
    cfg.model.auxiliary_head = dict(
        type='mmcropr.DynamicViTHead',
        teacher_config=str(tmp_path / 'teacher.py'),
        teacher_ckpt=str(tmp_path / 'teacher.pth'))
    cfg.dump(tmp_path / 'trained.py')
    forget_globals()
    Runner.from_cfg(cfg).train()
    assert logged(tmp_path / 'run', 'aux.loss_token')
    (tmp_path / 'teacher.py').unlink()
    (tmp_path / 'teacher.pth').unlink()
    run(monkeypatch, tmp_path / 'trained.py', tmp_path / 'run/epoch_1.pth',
        tmp_path / 'plain')
    plain = Config.fromfile(tmp_path / 'plain/trained.py')
    assert 'DynamicViTHead' not in plain.pretty_text
    assert plain.model.backbone.reducer.type == 'mmcropr.DynamicViT'
    state, original = (
        torch.load(path, map_location='cpu', weights_only=False)['state_dict']
        for path in (tmp_path / 'plain/trained.pth',
                     tmp_path / 'run/epoch_1.pth'))
    assert state.keys() == original.keys()
    assert any('reducers.3.out_conv.4.weight' in key for key in state)
    assert all(state[key].equal(value) for key, value in original.items())


def test_hybrid(digits, tmp_path, monkeypatch):
    """Two methods, of which one has queries to fold, over several counts."""
    cfg = tiny_digits_config(digits, tmp_path / 'run')
    cfg.model.backbone.reducer = [
        dict(type='mmcropr.ToMe', rate=12, modules=[0, 1]),
        dict(type='mmcropr.Cropr', rate=12, modules=[2, 3],
             num_queries='patch')]
    cfg.model.auxiliary_head.num_modules = 2
    cfg.dump(tmp_path / 'hybrid.py')
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    torch.save(dict(state_dict=model.state_dict(), meta={}),
               tmp_path / 'hybrid.pth')
    run(monkeypatch, tmp_path / 'hybrid.py', tmp_path / 'hybrid.pth',
        tmp_path / 'out')
    cfg = Config.fromfile(tmp_path / 'out/hybrid.py')
    assert [r.get('num_queries') for r in cfg.model.backbone.reducer] == [
        None, 1]
    plain = MODELS.build(cfg.model).eval()
    state = torch.load(tmp_path / 'out/hybrid.pth')['state_dict']
    plain.load_state_dict(state)
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(plain(image), model.eval()(image))


def test_predictions_on_the_data_are_equal(trained, tmp_path, monkeypatch):
    """Both models through the test loop of the runner, real scenes."""
    run(monkeypatch, *trained, tmp_path / 'plain')
    plain = tmp_path / 'plain/trained.py', tmp_path / 'plain/trained.pth'
    results = []
    for config, checkpoint in (trained, plain):
        forget_globals()
        cfg = Config.fromfile(config)
        cfg.load_from, cfg.work_dir = str(checkpoint), str(tmp_path / 'w')
        results.append(Runner.from_cfg(cfg).test())
    assert results[0] == results[1]
    assert any('mAP' in key or 'mIoU' in key or 'accuracy' in key
               for key in results[0])


def test_inference_with_the_host(trained, tmp_path, monkeypatch, digits):
    """Stock inference, without anything of ours but the registry."""
    if 'CroprDetector' not in trained[0].read_text():
        pytest.skip('mmdet only')
    run(monkeypatch, *trained, tmp_path / 'plain')
    forget_globals()
    from mmdet.apis import DetInferencer, inference_detector, init_detector
    config = str(tmp_path / 'plain/trained.py')
    weights = str(tmp_path / 'plain/trained.pth')
    image = str(next((digits / 'images/val').glob('*.png')))
    model = init_detector(config, weights, device='cpu')
    assert model.dataset_meta['classes'][0] == 'zero'
    found = inference_detector(model, image).pred_instances
    forget_globals()
    inferencer = DetInferencer(config, weights, device='cpu', palette='none')
    again = inferencer(image, no_save_vis=True)['predictions'][0]
    assert len(found.scores) and found.masks.shape[1:] == (64, 64)
    np.testing.assert_array_equal(found.scores.numpy(),
                                  np.float32(again['scores']))


@pytest.mark.parametrize('kind, message', [
    ('folder', 'exists; choose another folder'),
    ('checkpoint', 'no checkpoint at'),
    ('foreign', 'is no checkpoint of this model'),
    ('text', 'cannot be read as a checkpoint'),
])
def test_refused(trained, tmp_path, monkeypatch, capsys, kind, message):
    out, checkpoint = tmp_path / 'out', tmp_path / 'x.pth'
    if kind == 'folder':
        out.mkdir()
        checkpoint = trained[1]
    elif kind == 'foreign':
        torch.save({'a': torch.ones(1)}, checkpoint)
    elif kind == 'text':
        checkpoint.write_text('no checkpoint')
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, trained[0], checkpoint, out)
    # the command line is wrong, or what it names
    assert stop.value.code == (2 if kind in ('folder', 'checkpoint') else 1)
    assert message in capsys.readouterr().err
    assert kind == 'folder' or not list(tmp_path.glob('*out*'))


@pytest.mark.parametrize('last', [
    'norm.weight', ('fc_cls.weight', 'conv_seg.weight', 'head.fc.weight')])
def test_nothing_is_written_when_predictions_differ(
        trained, tmp_path, monkeypatch, capsys, last):
    state = tool.plain_state

    def wrong(model):
        result = state(model)
        key = next(k for k in result if k.endswith(last))
        return {**result, key: result[key] * 1.01}

    monkeypatch.setattr(tool, 'plain_state', wrong)
    with pytest.raises(SystemExit):
        run(monkeypatch, *trained, tmp_path / 'out')
    assert 'nothing was written' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_several_reducers(digits, tmp_path):
    """However a config has written them."""
    cfg = tiny_digits_config(digits, tmp_path)
    reducer = dict(cfg.model.backbone.reducer, modules=[1])
    cfg.model.backbone.reducer = (dict(reducer, modules=[0]), reducer)
    found = tool.plain_config(cfg).model.backbone.reducer
    assert [r.num_queries for r in found] == [1, 1]


def test_lora(digits, tmp_path):
    cfg = tiny_digits_config(digits, tmp_path)
    cfg.model.backbone = dict(
        type='mmcropr.LoRAModel', module=cfg.model.backbone)
    with pytest.raises(ValueError, match='LoRAModel keeps the ViT that it ch'):
        tool.plain_config(cfg)


def test_without_a_cropr_vit(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.delattr(CroprViT, 'fold_queries')
    with pytest.raises(SystemExit):
        run(monkeypatch, *trained, tmp_path / 'out')
    assert 'nothing to strip' in capsys.readouterr().err
