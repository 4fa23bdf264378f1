# Copyright (c) mmcropr contributors.
import json
import sys

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmcropr.models import CroprViT, PoolNeck, TopKPruner
from tests.utils import ROOT, TINY, TINY_EVA, load_tool

flops = load_tool('analysis_tools/get_flops.py')
benchmark = load_tool('analysis_tools/benchmark.py')
references = sys.modules['references']
DIGITS = 'digits-eva_linear_1xb32-15e_digits-scenes-96x96.py'
CROPR = str(ROOT / f'configs/cropr/cropr-r30_{DIGITS}')
NONE = str(ROOT / f'configs/no_pruning/{DIGITS}')
EVA = 'eva02-l_linear_1xb8-amp-64e_ade20k-512x512.py'


def test_weights_are_not_drawn():
    with flops.Undrawn():
        parts = torch.nn.Linear(3, 4), torch.nn.Conv2d(3, 4, 3)
        torch.nn.init.trunc_normal_(parts[0].weight, std=.02)
    assert not any(part.weight.any() for part in parts)
    assert torch.nn.Linear(3, 4).weight.any()


def test_counts_by_hand():
    """D = 96, hidden 256 (SwiGLU, as 4 D), patches of 192 values."""
    found = flops.analyse(NONE, (96, 96))
    dim, tokens = 96, 145
    linear = 144 * 192 * dim + 6 * tokens * 12 * dim**2
    assert found['linear_macs'] == linear
    assert found['total_macs'] == linear + 6 * 2 * tokens**2 * dim
    assert found['tokens_per_block'] == [145] * 6
    found = flops.analyse(CROPR, (96, 96))
    lengths = [145, 120, 88, 56, 24, 145]
    assert found['tokens_per_block'] == lengths
    linear = 144 * 192 * dim + sum(lengths) * 12 * dim**2
    assert found['linear_macs'] == linear


@pytest.mark.parametrize('name, macs', [
    (f'no_pruning/{EVA}', 311e9),
    (f'cropr/cropr-r40_{EVA}', 183e9),
])
def test_published_counts(name, macs, tmp_path, monkeypatch, capsys):
    """The fusion table of the paper, through the command line."""
    out = tmp_path / 'new/out.json'
    monkeypatch.setattr(sys, 'argv', [
        'get_flops.py', str(ROOT / 'configs' / name), '--json', str(out)])
    flops.main()
    found = json.loads(out.read_text())
    assert found['linear_macs'] == pytest.approx(macs, rel=0.01)
    assert found['params'] == pytest.approx(304e6, rel=0.01)
    assert found['total_macs'] > found['linear_macs']
    assert found['tokens_per_block'][-1] == 1025
    assert 'linear MACs' in capsys.readouterr().out


class First(TopKPruner):
    """Scores that fall with the place in the sequence."""

    def score(self, state):
        count = state.length - state.num_prefix
        return -torch.arange(count).float().expand(len(state.x), -1)


def test_slicing_reference_is_the_same_network():
    """Where Cropr would keep the first tokens, slicing gives its outputs."""
    backbone = CroprViT(
        TINY_EVA, img_size=96, reducer=dict(type='mmcropr.Random', rate=8))
    backbone.eval().reducers = nn.ModuleList([First(32), First(32)])
    image = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        wanted = backbone(image)[0]
        found = references.SlicedBackbone(backbone)(image)[0]
        none = references.no_pruning(nn.ModuleDict(dict(backbone=backbone)))
        assert not torch.allclose(none.backbone(image)[0], wanted, atol=1e-3)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert len(backbone.reducers) == 2, 'the references are copies'


def test_slicing_reference_of_a_detector():
    """Its encoder ends where that of the detector does: before the pyramid."""
    cfg = Config.fromfile(ROOT / 'configs/cropr/cropr-keep72-24_mask-rcnn_'
                          'digits-eva_1xb16-6e_digits-scenes-96x96.py')
    model = flops.build_for_inference(cfg)
    model.backbone.reducers = nn.ModuleList([First(71), First(23)])
    image = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        wanted, found = (
            flops.Encoder(m)(image)
            for m in (model, references.ideal_slicing(model)))
    assert [len(maps) for maps in (wanted, found)] == [1, 1]
    torch.testing.assert_close(found[0], wanted[0])


@pytest.mark.parametrize('pool, llf, fuse_at', [
    ('avg', None, None), ('avg', None, -1), ('cls', True, -1),
    ('cls', False, -1)])
def test_slicing_reference_of_a_classifier(pool, llf, fuse_at):
    """Pruning the last patches, whatever they are, is slicing."""
    backbone = CroprViT(
        TINY, img_size=96, out_type='tokens', fuse_at=fuse_at,
        reducer=dict(type='mmcropr.Random', rate=8)).eval()
    count = len(backbone.reducers)
    backbone.reducers = nn.ModuleList([First(32) for _ in range(count)])
    neck, image = PoolNeck(pool, llf), torch.rand(2, 3, 96, 96)
    sliced = references.ideal_slicing(
        nn.ModuleDict(dict(backbone=backbone, neck=neck)))
    with torch.no_grad():
        wanted = neck(backbone(image))[0]
        found = sliced.neck(sliced.backbone(image))[0]
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize('whole', [[], ['--whole']])
def test_benchmark(tmp_path, monkeypatch, capsys, whole):
    out = tmp_path / 'b.json'
    monkeypatch.setattr(sys, 'argv', [
        'benchmark.py', CROPR, NONE, '--shape', '96', '96', '--device',
        'cpu', '--rounds', '3', '--warmup', '1', '--json', str(out), *whole])
    benchmark.main()
    found = json.loads(out.read_text())
    names = [row['name'] for row in found['results']]
    assert names == [
        f'no pruning ({CROPR})', f'ideal slicing ({CROPR})', CROPR
    ], 'the config without a reducer is the reference itself'
    row = found['results'][2]
    assert row['images_per_second'] > 0
    assert row['ratio_to_no_pruning'] > 0 and row['ratio_to_ideal_slicing'] > 0
    assert found['hardware'] and found['versions']['torch'] == (
        torch.__version__)
    assert 'x slicing' in capsys.readouterr().out


def test_backbone_without_a_neck(tmp_path):
    cfg = Config.fromfile(CROPR)
    cfg.model.backbone.out_type = 'featmap'
    del cfg.model.neck
    cfg.dump(tmp_path / 'featmap.py')
    found = flops.analyse(str(tmp_path / 'featmap.py'), (96, 96))
    assert found['linear_macs'] == flops.analyse(CROPR, (96, 96))[
        'linear_macs']


DETECTOR = str(ROOT / 'configs/cropr/cropr-keep72-24_mask-rcnn_digits-eva_'
               '1xb16-6e_digits-scenes-96x96.py')


def test_counts_of_a_detector():
    """The encoder is that of the segmentor with the same ViT."""
    found, seg = flops.analyse(DETECTOR, (96, 96)), flops.analyse(
        str(ROOT / f'configs/cropr/cropr-keep72-24_{DIGITS}'), (96, 96))
    for key in ('linear_macs', 'total_macs', 'params', 'tokens_per_block'):
        assert found[key] == seg[key]
    assert found['model']['params'] > found['params']


def test_coco_configs_halve_the_encoder():
    name = 'cascade-mask-rcnn_eva02-l_8xb8-amp-40k_coco-1536.py'
    found = [
        flops.analyse(str(ROOT / f'configs/{path}{name}'), (1536, 1536))
        for path in ('no_pruning/', 'cropr/cropr-tpr97_')]
    assert found[1]['total_macs'] < 0.5 * found[0]['total_macs']
    assert found[1]['tokens_per_block'][-2:] == [280, 9216]


@pytest.mark.parametrize('name', [
    'mask-rcnn_vit-b_8xb8-amp-184k_coco-1024.py', 'atss_vit-b_8xb2-1x_coco.py',
    'dino_vit-b_8xb2-12e_coco.py'])
def test_vit_b_configs_halve_the_encoder(name):
    size = (1024, 1024) if '1024' in name else (800, 1344)
    found = [
        flops.analyse(str(ROOT / f'configs/{path}{name}'), size)
        for path in ('no_pruning/', 'cropr/cropr-tpr97_')]
    assert found[1]['total_macs'] < 0.5 * found[0]['total_macs']


def test_benchmark_of_a_whole_detector(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [
        'benchmark.py', DETECTOR, '--shape', '96', '96', '--device', 'cpu',
        '--rounds', '1', '--warmup', '1', '--whole'])
    benchmark.main()
    out = capsys.readouterr().out
    assert 'whole model' in out and 'no pruning' in out


def test_ratios_are_paired_by_round():
    entries = [
        benchmark.Entry('none', None, None, None),
        benchmark.Entry('fast', None, 'none', None)]
    rows = benchmark.summarise(
        entries, dict(none=[2., 4., 6.], fast=[1., 2., 2.]), batch=2)
    assert rows[1]['ratio_to_no_pruning'] == 2
    assert rows[0]['images_per_second'] == 0.5
    assert rows[0]['ratio_to_no_pruning'] is None


@pytest.mark.parametrize('options, message', [
    (['--device', 'cuda'], 'no CUDA device'),
    (['--device', 'cpu', '--rounds', '0'], '--rounds must be 1'),
    (['--device', 'cpu', '--share', '1.5'], "invalid parse_share value"),
    (['--device', 'cpu', '--train', '--dtype', 'float16'],
     'give --dtype amp-float16'),
])
def test_bad_options(options, message, monkeypatch, capsys):
    if 'cuda' in options and torch.cuda.is_available():
        pytest.skip('there is a CUDA device')
    monkeypatch.setattr(sys, 'argv', [
        'benchmark.py', CROPR, '--shape', '64', '64', *options])
    with pytest.raises(SystemExit):
        benchmark.main()
    assert message in capsys.readouterr().err


def test_queries_that_join():
    """Their blocks count, and slicing is the same network."""
    name = 'eomt_digits-eva_1xb16-8e_digits-panoptic-96x96'
    cfg = Config.fromfile(ROOT / f'configs/cropr/cropr-keep72-29_{name}.py')
    found = flops.analyse(cfg, (96, 96))
    assert found['tokens_per_block'] == [145, 145, 72, 29, 155, 155]
    assert found['params'] == found['model']['params']
    model = flops.build_for_inference(cfg)
    model.backbone.reducers = nn.ModuleList([First(96), First(96)])
    others = references.ideal_slicing(model), references.no_pruning(model)
    image = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        outputs = [flops.Encoder(m)(image)[1] for m in (model, *others)]
    assert [len(o) for o in outputs] == [1] * 3, 'without masked attention'
    wanted, sliced, plain = (o[0] for o in outputs)
    assert wanted.shape == (2, 10, 24, 24)
    torch.testing.assert_close(sliced, wanted)
    assert not torch.allclose(plain, wanted, atol=1e-3)
