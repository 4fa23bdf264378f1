# Copyright (c) mmcropr contributors.
import sys

import pytest
import torch
from mmengine.runner import load_checkpoint

from tests.eva02 import (CROPR, DIM, FC, PLAIN, TOPK, make_source, shrink,
                         small_model, tool)
from tests.utils import ROOT


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command on a source and a config, and read what it prints."""

    def run(source, *options, name=PLAIN, dst='dst.pth', **extra):
        if isinstance(source, dict):
            torch.save(dict(model=source, iteration=9, **extra),
                       tmp_path / 'src.pth')
            source = tmp_path / 'src.pth'
        if name in (PLAIN, CROPR, TOPK):
            (tmp_path / 'small.py').write_text(shrink(name))
            name = tmp_path / 'small.py'
        args = [name, source, tmp_path / dst, *options]
        monkeypatch.setattr(sys, 'argv', ['eva02_det.py', *map(str, args)])
        tool.main()
        return capsys.readouterr().out.splitlines()

    return run


def test_command_accounts_for_every_key(run, tmp_path):
    source = make_source()
    for key in ('pixel_mean', 'pixel_std',
                'proposal_generator.anchor_generator.cell_anchors.0',
                'roi_heads.box_predictor.0.fed_loss_cls_weights'):
        source[key] = torch.ones(3, 1, 1)
    lines = run(source, dst='sub/dst.pth')
    model = small_model(tmp_path)
    load_checkpoint(model, str(tmp_path / 'sub/dst.pth'), strict=True)
    assert {line.split()[0] for line in lines[:-1]} == set(source)
    left_out = [line for line in lines if 'left out' in line]
    assert len(left_out) == 4 + 8 + 4
    assert 'computed' in left_out[0]
    assert ('backbone.net.pos_embed (1, 10, 32) -> backbone.vit.pos_embed '
            '(1, 16, 32)') in lines
    assert ('backbone.net.blocks.3.mlp.w1.bias (85,) -> '
            'backbone.vit.blocks.3.mlp.fc1_g.bias (85,)') in lines
    assert sum('mask_head.deconv.bias' in line for line in lines) == 3
    assert lines[-1].startswith(f'{len(model.state_dict())} tensors')
    assert sorted(p.name for p in (tmp_path / 'sub').iterdir()) == ['dst.pth']


def test_cropr_detector_has_the_prefix(run, tmp_path):
    lines = run(make_source(), name=CROPR)
    state = torch.load(tmp_path / 'dst.pth')['state_dict']
    assert all(key.startswith('detector.') for key in state)
    model = small_model(tmp_path, CROPR)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and missing
    assert all(key.startswith(('auxiliary_head.', 'detector.backbone.reducers')
                              ) for key in missing)  # yapf: disable
    listed = [line.split()[0] for line in lines if 'not in the source' in line]
    assert listed == missing


def test_class_token_keeps_its_position(run, tmp_path):
    lines = run(make_source(), name=TOPK)
    state = torch.load(tmp_path / 'dst.pth')['state_dict']
    positions = state['backbone.vit.pos_embed']
    assert positions.shape == (1, 17, DIM)
    assert torch.equal(positions[:, :1],
                       make_source()['backbone.net.pos_embed'][:, :1])
    assert [line.split()[0] for line in lines if 'not in the source' in line
            ] == ['backbone.vit.cls_token']


def test_other_classes_and_no_masks(run, tmp_path):
    """As from Objects365."""
    lines = run(make_source(365, masks=False))
    text = '\n'.join(lines)
    assert ('roi_heads.box_predictor.1.cls_score.weight (366, 16) -> '
            'roi_head.bbox_head.1.fc_cls.weight (81, 16): left out, other '
            'classes') in lines
    assert 'roi_head.bbox_head.1.fc_cls.weight (81, 16): not in the source, ' \
        'the source has other classes' in text
    model = small_model(tmp_path)
    state = torch.load(tmp_path / 'dst.pth')['state_dict']
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all('fc_cls' in key or 'mask_head' in key for key in missing)
    assert sum('fc_cls' in key for key in missing) == 6
    lines = run(make_source(365), '--overwrite')
    assert sum('predictor' in x and 'left out' in x for x in lines) == 12


def test_averaged_weights(run, tmp_path, capsys):
    source = make_source()
    averaged = {key: value + 1 for key, value in source.items()}
    key = 'roi_heads.box_head.0.fc1.bias'
    ours = 'roi_head.bbox_head.0.shared_fcs.0.bias'
    for options, wanted in ((), source), (('--ema', ), averaged):
        run(source, *options, '--overwrite', ema_state=averaged)
        state = torch.load(tmp_path / 'dst.pth')['state_dict']
        assert torch.equal(state[ours], wanted[key])
    with pytest.raises(SystemExit):
        run(source, '--ema', '--overwrite')
    assert "no weights under 'ema_state', only: model, it" in \
        capsys.readouterr().err


def test_overwrite(run, tmp_path, capsys):
    (tmp_path / 'dst.pth').write_text('mine')
    with pytest.raises(SystemExit):
        run(make_source())
    assert 'give --overwrite' in capsys.readouterr().err
    assert (tmp_path / 'dst.pth').read_text() == 'mine'
    run(make_source(), '--overwrite')
    assert 'state_dict' in torch.load(tmp_path / 'dst.pth')


def drop(key):
    return lambda source: source.pop(key)


def put(key, *shape):
    return lambda source: source.update({key: torch.ones(*shape)})


@pytest.mark.parametrize('change, message', [
    (put('stranger', 2), "unknown key 'stranger' (2,)"),
    (put('backbone.net.blocks.1.residual.conv1.weight', 2),
     "unknown key 'backbone.net.blocks.1.residual.conv1.weight' (2,)"),
    (put('backbone.net.head.weight', 2), "unknown key 'backbone.net.head"),
    (put('backbone.net.blocks.4.norm1.bias', DIM), 'unknown key'),
    (put('roi_heads.box_head.3.fc1.bias', FC), 'unknown key'),
    (put('backbone.net.blocks.1.norm1.bias', 5),
     'another shape: backbone.net.blocks.1.norm1.bias (5,) -> '
     'backbone.vit.blocks.1.norm1.bias (32,)'),
    (put('backbone.net.patch_embed.proj.weight', DIM, 3, 14, 14),
     'another shape: backbone.net.patch_embed.proj.weight (32, 3, 14, 14)'),
    (put('backbone.net.pos_embed', 1, 11, DIM),
     'another shape: backbone.net.pos_embed (1, 11, 32)'),
    (put('roi_heads.box_predictor.0.cls_score.weight', 366, 5),
     'another shape: roi_heads.box_predictor.0.cls_score.weight (366, 5) -> '
     'roi_head.bbox_head.0.fc_cls.weight (81, 16)'),
    (put('roi_heads.box_predictor.0.bbox_pred.bias', 320),
     'another shape: roi_heads.box_predictor.0.bbox_pred.bias (320,)'),
    (drop('backbone.net.blocks.2.attn.v_bias'),
     'the source has nothing for backbone.vit.blocks.2.attn.v_proj.bias'),
    (drop('roi_heads.mask_head.deconv.bias'),
     'the source has nothing for roi_head.mask_head.0.upsample.bias (8,)'),
])  # yapf: disable
def test_other_sources(tmp_path, change, message, run, capsys):
    source = make_source()
    change(source)
    check_error(run, capsys, tmp_path, source, message)


@pytest.mark.parametrize('content, message', [
    (None, 'src.pth: no such file'),
    (b'text', 'cannot be read as a checkpoint'),
    ('truncated', 'cannot be read as a checkpoint'),
    ([1], "no weights under 'model'"),
    (dict(model=dict(a=1)), "no weights under 'model', only: model"),
    ({'pos_embed': torch.ones(2), 'blocks.0.attn.q_proj.weight':
      torch.ones(2)}, 'is no detector of EVA-02: no key'),
    (dict(model={'backbone.net.pos_embed': torch.ones(2)}),
     'is no detector of EVA-02: no key'),
])  # yapf: disable
def test_other_files(tmp_path, content, message, run, capsys):
    path = tmp_path / 'src.pth'
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == 'truncated':
        torch.save(dict(model=make_source()), path)
        path.write_bytes(path.read_bytes()[:-1000])
    elif content is not None:
        torch.save(content, path)
    check_error(run, capsys, tmp_path, path, message)


@pytest.mark.parametrize('name, message', [
    ('configs/no_pruning/mask-rcnn_vit-b_8xb8-amp-184k_coco-1024.py',
     'is no CascadeRCNN of mmcropr.CroprViT and mmcropr.SimpleFPN, but '
     'MaskRCNN'),
    ('configs/_base_/det_runtime.py', 'no detector can be built from'),
    ('configs/none.py', 'no detector can be built from'),
])  # yapf: disable
def test_other_configs(tmp_path, name, message, run, capsys):
    check_error(run, capsys, tmp_path, make_source(), message,
                name=ROOT / name)


def check_error(run, capsys, tmp_path, source, message, **options):
    """One line on stderr after the usage, exit code 2, nothing written."""
    with pytest.raises(SystemExit) as error:
        run(source, **options)
    assert error.value.code == 2
    err = capsys.readouterr().err
    assert message in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith('eva02_det.py: error: ')
    assert not list(tmp_path.glob('dst*'))
