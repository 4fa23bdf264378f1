# Copyright (c) mmcropr contributors.
"""The source is written from the layout of EVA-02's detectors by hand, and
what it computes is computed again with torch alone."""
import functools
import math
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import load_checkpoint
from torch.nn import functional as F

from tests.utils import ROOT, check_close, load_tool

tool = load_tool('model_converters/eva02_det.py')
NAME = 'cascade-mask-rcnn_eva02-l_8xb8-amp-40k_coco-1536.py'
PLAIN, CROPR = f'no_pruning/{NAME}', f'cropr/cropr-tpr97_{NAME}'
TOPK = f'attn_topk/attn-topk-tpr97_{NAME}'
# Width, heads and hidden width of the ViT, channels and width of the heads
DIM, HEADS, HIDDEN, OUT, FC = 32, 2, 85, 8, 16


def make_source(classes=80, masks=True):
    """State dict of a detector of 4 blocks, for 80 x 80 px in training."""
    torch.manual_seed(0)
    state = {}

    def put(name, *shape, near=0.):
        state[name] = near + 0.2 * torch.randn(*shape)

    def pair(name, *shape):
        put(f'{name}.weight', *shape)
        put(f'{name}.bias', shape[1 if name in TRANSPOSED else 0])

    def norm(name, width):
        put(f'{name}.weight', width, near=1.)
        put(f'{name}.bias', width)

    def conv(name, out, width, size):
        put(f'{name}.weight', out, width, size, size)
        norm(f'{name}.norm', out)

    net = 'backbone.net'
    put(f'{net}.pos_embed', 1, 1 + 3 * 3, DIM)
    pair(f'{net}.patch_embed.proj', DIM, 3, 16, 16)
    for rope in ('rope_win', 'rope_glb'):
        put(f'{net}.{rope}.freqs_cos', 25, DIM // HEADS)
        put(f'{net}.{rope}.freqs_sin', 25, DIM // HEADS)
    for i in range(4):
        block = f'{net}.blocks.{i}'
        norm(f'{block}.norm1', DIM)
        put(f'{block}.attn.q_bias', DIM)
        put(f'{block}.attn.v_bias', DIM)
        for part in 'qkv':
            put(f'{block}.attn.{part}_proj.weight', DIM, DIM)
        put(f'{block}.attn.rope.freqs_cos', 25, DIM // HEADS)
        put(f'{block}.attn.rope.freqs_sin', 25, DIM // HEADS)
        pair(f'{block}.attn.proj', DIM, DIM)
        norm(f'{block}.norm2', DIM)
        pair(f'{block}.mlp.w1', HIDDEN, DIM)
        pair(f'{block}.mlp.w2', HIDDEN, DIM)
        norm(f'{block}.mlp.ffn_ln', HIDDEN)
        pair(f'{block}.mlp.w3', DIM, HIDDEN)
    pair('backbone.simfp_2.0', DIM, DIM // 2, 2, 2)
    norm('backbone.simfp_2.1', DIM // 2)
    pair('backbone.simfp_2.3', DIM // 2, DIM // 4, 2, 2)
    pair('backbone.simfp_3.0', DIM, DIM // 2, 2, 2)
    for name, width in (('2.4', DIM // 4), ('3.1', DIM // 2), ('4.0', DIM),
                        ('5.1', DIM)):
        conv(f'backbone.simfp_{name}', OUT, width, 1)
    for name in ('2.5', '3.2', '4.1', '5.2'):
        conv(f'backbone.simfp_{name}', OUT, OUT, 3)
    rpn, roi = 'proposal_generator.rpn_head', 'roi_heads'
    pair(f'{rpn}.conv.conv0', OUT, OUT, 3, 3)
    pair(f'{rpn}.conv.conv1', OUT, OUT, 3, 3)
    pair(f'{rpn}.objectness_logits', 3, OUT, 1, 1)
    pair(f'{rpn}.anchor_deltas', 12, OUT, 1, 1)
    for i in range(3):
        for k in (1, 2, 3, 4):
            conv(f'{roi}.box_head.{i}.conv{k}', OUT, OUT, 3)
        pair(f'{roi}.box_head.{i}.fc1', FC, OUT * 7 * 7)
        pair(f'{roi}.box_predictor.{i}.cls_score', classes + 1, FC)
        pair(f'{roi}.box_predictor.{i}.bbox_pred', 4, FC)
    if masks:
        for k in (1, 2, 3, 4):
            conv(f'{roi}.mask_head.mask_fcn{k}', OUT, OUT, 3)
        pair(f'{roi}.mask_head.deconv', OUT, OUT, 2, 2)
        pair(f'{roi}.mask_head.predictor', classes, OUT, 1, 1)
    return state


TRANSPOSED = ('backbone.simfp_2.0', 'backbone.simfp_2.3', 'backbone.simfp_3.0',
              'roi_heads.mask_head.deconv')


@functools.lru_cache(maxsize=None)
def shrink(name):
    """Text of a config with the source's sizes, for 64 x 64 px."""
    cfg = Config.fromfile(ROOT / 'configs' / name)
    part = cfg.model.get('detector', cfg.model)
    part.backbone.update(
        img_size=64,
        arch=dict(
            part.backbone.arch, embed_dim=DIM, depth=4, num_heads=HEADS))
    if 'reducer' in part.backbone:
        part.backbone.reducer.tpr = 0.5
        if part is not cfg.model:
            cfg.model.auxiliary_head.update(in_channels=DIM, num_modules=2)
    part.neck[1].update(in_channels=DIM, out_channels=OUT)
    part.rpn_head.update(in_channels=OUT, feat_channels=OUT)
    for head in part.roi_head.bbox_head:
        head.update(in_channels=OUT, conv_out_channels=OUT, fc_out_channels=FC)
    part.roi_head.mask_head.update(in_channels=OUT, conv_out_channels=OUT)
    for kind in ('bbox', 'mask'):
        part.roi_head[f'{kind}_roi_extractor'].out_channels = OUT
    return cfg.pretty_text


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


def small_model(path, name=PLAIN):
    (path / 'small.py').write_text(shrink(name))
    return tool.build_target(str(path / 'small.py')).eval()


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
    """The source's weights, and a model with them."""
    source, model = make_source(), small_model(tmp_path_factory.mktemp('a'))
    model.load_state_dict(tool.convert(source, model)[0])
    return source, model


def conv(source, name, x, **options):
    """Convolution, of the kind its name has, and the norm that it may have."""
    kind = F.conv_transpose2d if name in TRANSPOSED else F.conv2d
    weight = source[f'{name}.weight']
    options = dict(stride=2) if name in TRANSPOSED else dict(
        padding=weight.shape[-1] // 2)
    x = kind(x, weight, source.get(f'{name}.bias'), **options)
    return norm(source, f'{name}.norm', x) if f'{name}.norm.bias' in source \
        else x


def norm(source, name, x):
    x = F.layer_norm(
        x.permute(0, 2, 3, 1), x.shape[1:2], source[f'{name}.weight'],
        source[f'{name}.bias'], 1e-6)
    return x.permute(0, 3, 1, 2)


def linear(source, name, x):
    return F.linear(x, source[f'{name}.weight'], source.get(f'{name}.bias'))


def rotate(x, side):
    """Rotary positions of side**2 tokens, (B, heads, N, d), in units of a
    grid of 16: half of the channels turn by the row, half by the column."""
    d = x.shape[-1]
    speed = 10000**(-torch.arange(0, d // 2, 2) / (d // 2))
    place = torch.arange(side) * 16 / side
    rows = place.repeat_interleave(side)[:, None] * speed
    columns = place.repeat(side)[:, None] * speed
    turn = torch.polar(torch.ones(side**2, d // 2),
                       torch.cat([rows, columns], 1))
    x = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(x * turn).flatten(-2)


def run_block(source, i, x, side):
    name = f'backbone.net.blocks.{i}'

    def layer_norm(part, x):
        part = f'{name}.{part}'
        return F.layer_norm(x, x.shape[-1:], source[f'{part}.weight'],
                            source[f'{part}.bias'], 1e-6)

    y = layer_norm('norm1', x)
    q, k, v = (linear(source, f'{name}.attn.{part}_proj', y) for part in 'qkv')
    q, v = q + source[f'{name}.attn.q_bias'], v + source[f'{name}.attn.v_bias']
    q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (q, k, v))
    q, k = rotate(q, side), rotate(k, side)
    weights = (q @ k.mT / math.sqrt(DIM // HEADS)).softmax(-1)
    y = (weights @ v).transpose(1, 2).flatten(2)
    x = x + linear(source, f'{name}.attn.proj', y)
    y = layer_norm('norm2', x)
    y = F.silu(linear(source, f'{name}.mlp.w1', y)) * linear(
        source, f'{name}.mlp.w2', y)
    return x + linear(source, f'{name}.mlp.w3', layer_norm('mlp.ffn_ln', y))


@torch.no_grad()
def test_vit_and_pyramid_compute_the_same(pair):
    source, model = pair
    image = torch.randn(2, 3, 64, 64)
    x = F.conv2d(image, source['backbone.net.patch_embed.proj.weight'],
                 source['backbone.net.patch_embed.proj.bias'], stride=16)
    grid = source['backbone.net.pos_embed'][0, 1:].T.reshape(1, DIM, 3, 3)
    x = x + F.interpolate(grid, (4, 4), mode='bicubic', align_corners=False)
    x = x.flatten(2).transpose(1, 2)
    for i in range(4):
        x = run_block(source, i, x, 4)
    x = x.transpose(1, 2).reshape(2, DIM, 4, 4)
    check_close(model.neck[0](model.backbone(image))[-1], x, 'ViT')
    levels, name = model.extract_feat(image), 'backbone.simfp_'
    y = norm(source, f'{name}2.1', conv(source, f'{name}2.0', x))
    y = conv(source, f'{name}2.3', F.gelu(y))
    starts = y, conv(source, f'{name}3.0', x), x, F.max_pool2d(x, 2)
    for level, y, stage, k in zip(levels, starts, (2, 3, 4, 5), (4, 1, 0, 1)):
        y = conv(source, f'{name}{stage}.{k}', y)
        y = conv(source, f'{name}{stage}.{k + 1}', y)
        check_close(level, y, f'simfp_{stage}')


@torch.no_grad()
def test_rpn_computes_the_same(pair):
    source, model = pair
    x, name = torch.randn(1, OUT, 5, 4), 'proposal_generator.rpn_head'
    y = conv(source, f'{name}.conv.conv0', x).relu()
    y = conv(source, f'{name}.conv.conv1', y).relu()
    (logits, ), (deltas, ) = model.rpn_head([x])
    check_close(logits, conv(source, f'{name}.objectness_logits', y))
    check_close(deltas, conv(source, f'{name}.anchor_deltas', y))
    anchors = model.rpn_head.prior_generator.grid_priors(
        [(2, 3)] * 5, device='cpu')
    for level, found in enumerate(anchors):
        stride = 4 * 2**level
        wanted = []
        for row in range(2):
            for column in range(3):
                for ratio in (0.5, 1., 2.):
                    w, h = 8 * stride / ratio**.5, 8 * stride * ratio**.5
                    x, y = column * stride, row * stride
                    wanted.append(
                        [x - w / 2, y - h / 2, x + w / 2, y + h / 2])
        check_close(found, torch.tensor(wanted))


@pytest.mark.parametrize('stage, xy, wh', [(0, 10, 5), (1, 20, 10),
                                           (2, 30, 15)])
@torch.no_grad()
def test_box_head_computes_the_same(pair, stage, xy, wh):
    source, model = pair
    x = torch.randn(6, OUT, 7, 7)
    head = model.roi_head.bbox_head[stage]
    y = x
    for k in (1, 2, 3, 4):
        y = conv(source, f'roi_heads.box_head.{stage}.conv{k}', y).relu()
    y = linear(source, f'roi_heads.box_head.{stage}.fc1', y.flatten(1)).relu()
    name = f'roi_heads.box_predictor.{stage}'
    scores, deltas = head(x)
    check_close(scores, linear(source, f'{name}.cls_score', y))
    boxes = torch.rand(6, 4) * 20 + torch.tensor([0., 0., 30., 30.])
    size, centre = boxes[:, 2:] - boxes[:, :2], boxes.view(6, 2, 2).mean(1)
    y = linear(source, f'{name}.bbox_pred', y)
    centre = centre + y[:, :2] / xy * size
    size = size * (y[:, 2:] / wh).exp()
    wanted = torch.cat([centre - size / 2, centre + size / 2], 1)
    check_close(head.bbox_coder.decode(boxes, deltas), wanted)
    # mmdet takes the last class for the background
    assert scores.shape[1] == head.num_classes + 1 == 81


@torch.no_grad()
def test_mask_heads_are_copies_that_compute_the_same(pair):
    source, model = pair
    x = y = torch.randn(2, OUT, 14, 14)
    for k in (1, 2, 3, 4):
        y = conv(source, f'roi_heads.mask_head.mask_fcn{k}', y).relu()
    y = conv(source, 'roi_heads.mask_head.deconv', y).relu()
    y = conv(source, 'roi_heads.mask_head.predictor', y)
    for head in model.roi_head.mask_head:
        check_close(head(x), y)


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
