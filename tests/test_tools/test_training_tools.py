# Copyright (c) mmcropr contributors.
"""``--train`` of get_flops.py and benchmark.py."""
import json
import sys

import pytest
import torch
from mmengine.config import Config
from torch import nn

from tests.utils import ROOT, load_tool

flops = load_tool('analysis_tools/get_flops.py')
benchmark = load_tool('analysis_tools/benchmark.py')
training, entries = sys.modules['training'], sys.modules['entries']
DIGITS = 'digits-eva_linear_1xb32-15e_digits-scenes-96x96.py'
NONE, CROPR = (str(ROOT / 'configs' / name) for name in (
    f'no_pruning/{DIGITS}', f'cropr/cropr-r30_{DIGITS}'))
DETECTOR = str(ROOT / 'configs/cropr/cropr-keep72-24_mask-rcnn_digits-eva_'
               '1xb16-6e_digits-scenes-96x96.py')
CLASSIFIER = str(ROOT / 'configs/cropr/cropr-tpr78_digits-eva_1xb32-8e_'
                 'digits-classes-96x96.py')


def count(config, shape=(96, 96), options={}, **kwargs):
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options)
    return training.count_step(cfg, shape, **kwargs)


def test_work_by_hand():
    """Twice a forward pass for its backward pass, but for the image, which
    needs no gradient; five products for the two of fused attention."""
    found = count(NONE, batch=2)
    linear = flops.analyse(NONE, (96, 96))['linear_macs']
    dim, tokens, classes = 96, 145, 11
    products = 3 * (linear + 144 * dim * classes) - 144 * 192 * dim
    attention = 6 * 7 * tokens**2 * dim
    if found['attention_flops']:
        assert found['attention_flops'] == 2 * 2 * attention
        assert found['flops'] == 2 * 2 * (products + attention)
    assert found['auxiliary_flops'] == found['early_gradient_bytes'] == 0


def test_local_losses_do_the_same_work_and_keep_less():
    plain, local, share = (
        count(CROPR, batch=2, options=options) for options in (
            {'model.auxiliary_head.local': False}, {},
            {'model.auxiliary_head.query_share': .25}))
    none = count(NONE, batch=2)
    assert plain['flops'] == local['flops']
    assert plain['early_gradient_bytes'] == 0
    assert local['early_gradient_bytes'] == share['early_gradient_bytes'] > 0
    without = local['flops'] - local['auxiliary_flops']
    assert without < none['flops'] < local['flops']
    assert share['auxiliary_flops'] < 0.3 * local['auxiliary_flops']
    assert share['flops'] - share['auxiliary_flops'] == without
    assert local['kept_bytes'] < none['kept_bytes'] < plain['kept_bytes']


def test_share_of_the_rate():
    work = [count(CROPR, share=share)['flops'] - count(
        CROPR, share=share)['auxiliary_flops']
            for share in ((0, 1), (1, 2), (1, 1))]
    assert work[0] > work[1] > work[2]
    assert work[0] == count(NONE)['flops']


DEPTH = str(ROOT / 'configs/cropr/cropr-keep72-24_digits-eva_vpd-depth_'
            '1xb16-4e_digits-depth-96x96.py')
PANOPTIC = str(ROOT / 'configs/cropr/cropr-keep72-29_eomt_digits-eva_'
               '1xb16-8e_digits-panoptic-96x96.py')


@pytest.mark.parametrize('config', [DETECTOR, CLASSIFIER, DEPTH, PANOPTIC])
def test_steps_of_other_tasks(config):
    found = count(config, batch=2)
    assert found['flops'] > found['auxiliary_flops'] > 0
    assert found['early_gradient_bytes'] > 0


def test_kept_bytes_counts_memory_once_and_no_weights():
    layer = nn.Linear(8, 8, bias=False)
    kept = training.KeptBytes(layer)
    x = torch.randn(4, 8, requires_grad=True)
    with kept.counted():
        y = layer(x)
        assert kept.total == x.nbytes
        z = layer(x) + x.exp()
        assert kept.total == 2 * x.nbytes, 'x, and the result of exp'
    del y
    assert kept.total == 2 * x.nbytes
    del z
    assert kept.total == 0


@pytest.mark.parametrize('config', [CROPR, DETECTOR, CLASSIFIER])
def test_benchmark(config, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'b.json'
    monkeypatch.setattr(sys, 'argv', [
        'benchmark.py', config, '--train', '--share', '1/2', '--shape', '96',
        '96', '--device', 'cpu', '--rounds', '1', '--warmup', '1', '--batch',
        '2', '--json', str(out)])
    benchmark.main()
    found = json.loads(out.read_text())
    assert [row['name'] for row in found['results']] == [
        f'no pruning ({config})', f'ideal slicing ({config})', config]
    assert found['results'][2]['ratio_to_no_pruning'] > 0
    assert found['settings']['share'] == [1, 2]
    assert 'training step' in capsys.readouterr().out


def test_references_train_the_same_vit_at_the_same_lengths():
    none, slicing, own = entries.make_training_entries([CROPR], (1, 2))
    vits = [entries.backbone_of(e.module).vit for e in (none, slicing, own)]
    assert vits[0] is vits[1] is vits[2]
    assert not getattr(none.module, 'auxiliary_head', None)
    assert entries.backbone_of(none.module).schedule is None
    assert entries.backbone_of(own.module).progress == (1, 2)
    lengths = []
    blocks = entries.backbone_of(slicing.module).vit.blocks
    handles = [block.register_forward_pre_hook(
        lambda module, args: lengths.append(args[0].shape[1]))
        for block in blocks]
    image = torch.rand(1, 3, 96, 96)
    for module in (slicing.module, own.module):
        entries.backbone_of(module)(image)
    for handle in handles:
        handle.remove()
    assert lengths[:5] == lengths[6:11] and lengths[4] > 24
    assert (own.none, own.slicing) == (none.name, slicing.name)
    step = training.TrainingStep(
        none.module, torch.randn(1, 3, 96, 96),
        optimizer=torch.optim.SGD(none.module.parameters(), lr=.1))
    before = vits[0].patch_embed.proj.weight.clone()
    step()
    assert not vits[0].patch_embed.proj.weight.equal(before)


DYNAMIC = str(ROOT / 'configs/dynamic_vit/dynamic-vit-tpr78_digits-eva_linear'
              '_1xb32-4e_digits-scenes-96x96.py')


@pytest.mark.parametrize('config, options', [
    (DYNAMIC, {}), (CROPR, {'model.backbone.reducer.stop_gradient': False})])
def test_heads_whose_losses_go_on(config, options):
    found = count(config, options=options)
    assert found['auxiliary_flops'] is None and found['flops'] > 0
    flops.print_step(found)


def test_slices_are_as_long_as_the_reducer_leaves():
    """Of a method that has no curriculum."""
    config = str(ROOT / 'configs/sit/sit-tpr78_digits-eva_linear_1xb32-4e_'
                 'digits-scenes-96x96.py')
    _, slicing, own = entries.make_training_entries([config], (1, 4))
    backbone = entries.backbone_of(slicing.module)
    wanted = entries.backbone_of(own.module).lengths()
    assert backbone._lengths((12, 12), True) == wanted


def test_other_models(tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match='Linear is no segmentor, detector'):
        training.make_labels(nn.Linear(1, 1), torch.zeros(1, 3, 8, 8))
    monkeypatch.setattr(sys, 'argv', [
        'get_flops.py', CROPR, '--train', '--batch', '0'])
    with pytest.raises(SystemExit):
        flops.main()
    assert '--batch must be 1 or more, got 0' in capsys.readouterr().err
    for text in ('1/0', '2', 'nan', '-1'):
        with pytest.raises(ValueError):
            training.parse_share(text)


def test_command(tmp_path, monkeypatch, capsys):
    out = tmp_path / 'f.json'
    monkeypatch.setattr(sys, 'argv', [
        'get_flops.py', CROPR, '--train', '--amp', 'bfloat16', '--json',
        str(out), '--cfg-options', 'model.auxiliary_head.local=False'])
    flops.main()
    found = json.loads(out.read_text())
    assert found['early_gradient_bytes'] == 0 and found['amp'] == 'bfloat16'
    assert found['cfg_options'] == {'model.auxiliary_head.local': False}
    text = capsys.readouterr().out
    assert 'one training step' in text and 'kept for backward' in text
