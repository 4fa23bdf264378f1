# Copyright (c) mmcropr contributors.
"""What a detector of EVA-02 computes is computed again with torch alone."""
import math

import pytest
import torch
from torch.nn import functional as F

from tests.eva02 import (DIM, HEADS, OUT, TRANSPOSED, make_source, small_model,
                         tool)
from tests.utils import check_close


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
