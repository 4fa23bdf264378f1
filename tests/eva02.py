# Copyright (c) mmcropr contributors.
"""A detector of EVA-02, small: its checkpoint, written from its layout by
hand, and our config of its sizes."""
import functools

import torch
from mmengine.config import Config

from tests.utils import ROOT, load_tool

tool = load_tool('model_converters/eva02_det.py')
NAME = 'cascade-mask-rcnn_eva02-l_8xb8-amp-40k_coco-1536.py'
PLAIN, CROPR = f'no_pruning/{NAME}', f'cropr/cropr-tpr97_{NAME}'
TOPK = f'attn_topk/attn-topk-tpr97_{NAME}'
# Width, heads and hidden width of the ViT, channels and width of the heads
DIM, HEADS, HIDDEN, OUT, FC = 32, 2, 85, 8, 16
TRANSPOSED = ('backbone.simfp_2.0', 'backbone.simfp_2.3', 'backbone.simfp_3.0',
              'roi_heads.mask_head.deconv')


class Source(dict):
    """State dict of random weights; what is put twice is an error."""

    def put(self, name, *shape, near=0.):
        assert name not in self
        self[name] = near + 0.2 * torch.randn(*shape)

    def pair(self, name, *shape):
        self.put(f'{name}.weight', *shape)
        self.put(f'{name}.bias', shape[1 if name in TRANSPOSED else 0])

    def norm(self, name, width):
        self.put(f'{name}.weight', width, near=1.)
        self.put(f'{name}.bias', width)

    def conv(self, name, out, width, size):
        self.put(f'{name}.weight', out, width, size, size)
        self.norm(f'{name}.norm', out)


def put_vit(source):
    net = 'backbone.net'
    source.put(f'{net}.pos_embed', 1, 1 + 3 * 3, DIM)
    source.pair(f'{net}.patch_embed.proj', DIM, 3, 16, 16)
    for rope in ('rope_win', 'rope_glb'):
        source.put(f'{net}.{rope}.freqs_cos', 25, DIM // HEADS)
        source.put(f'{net}.{rope}.freqs_sin', 25, DIM // HEADS)
    for i in range(4):
        block = f'{net}.blocks.{i}'
        source.norm(f'{block}.norm1', DIM)
        source.put(f'{block}.attn.q_bias', DIM)
        source.put(f'{block}.attn.v_bias', DIM)
        for part in 'qkv':
            source.put(f'{block}.attn.{part}_proj.weight', DIM, DIM)
        source.put(f'{block}.attn.rope.freqs_cos', 25, DIM // HEADS)
        source.put(f'{block}.attn.rope.freqs_sin', 25, DIM // HEADS)
        source.pair(f'{block}.attn.proj', DIM, DIM)
        source.norm(f'{block}.norm2', DIM)
        source.pair(f'{block}.mlp.w1', HIDDEN, DIM)
        source.pair(f'{block}.mlp.w2', HIDDEN, DIM)
        source.norm(f'{block}.mlp.ffn_ln', HIDDEN)
        source.pair(f'{block}.mlp.w3', DIM, HIDDEN)


def put_pyramid(source):
    source.pair('backbone.simfp_2.0', DIM, DIM // 2, 2, 2)
    source.norm('backbone.simfp_2.1', DIM // 2)
    source.pair('backbone.simfp_2.3', DIM // 2, DIM // 4, 2, 2)
    source.pair('backbone.simfp_3.0', DIM, DIM // 2, 2, 2)
    for name, width in (('2.4', DIM // 4), ('3.1', DIM // 2), ('4.0', DIM),
                        ('5.1', DIM)):
        source.conv(f'backbone.simfp_{name}', OUT, width, 1)
    for name in ('2.5', '3.2', '4.1', '5.2'):
        source.conv(f'backbone.simfp_{name}', OUT, OUT, 3)


def put_heads(source, classes, masks):
    rpn, roi = 'proposal_generator.rpn_head', 'roi_heads'
    source.pair(f'{rpn}.conv.conv0', OUT, OUT, 3, 3)
    source.pair(f'{rpn}.conv.conv1', OUT, OUT, 3, 3)
    source.pair(f'{rpn}.objectness_logits', 3, OUT, 1, 1)
    source.pair(f'{rpn}.anchor_deltas', 12, OUT, 1, 1)
    for i in range(3):
        for k in (1, 2, 3, 4):
            source.conv(f'{roi}.box_head.{i}.conv{k}', OUT, OUT, 3)
        source.pair(f'{roi}.box_head.{i}.fc1', FC, OUT * 7 * 7)
        source.pair(f'{roi}.box_predictor.{i}.cls_score', classes + 1, FC)
        source.pair(f'{roi}.box_predictor.{i}.bbox_pred', 4, FC)
    if masks:
        for k in (1, 2, 3, 4):
            source.conv(f'{roi}.mask_head.mask_fcn{k}', OUT, OUT, 3)
        source.pair(f'{roi}.mask_head.deconv', OUT, OUT, 2, 2)
        source.pair(f'{roi}.mask_head.predictor', classes, OUT, 1, 1)


def make_source(classes=80, masks=True):
    """State dict of a detector of 4 blocks, for 80 x 80 px in training."""
    torch.manual_seed(0)
    source = Source()
    put_vit(source)
    put_pyramid(source)
    put_heads(source, classes, masks)
    return dict(source)


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


def small_model(path, name=PLAIN):
    (path / 'small.py').write_text(shrink(name))
    return tool.build_target(str(path / 'small.py')).eval()
