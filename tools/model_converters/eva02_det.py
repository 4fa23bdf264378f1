# Copyright (c) mmcropr contributors.
"""Turn a detection checkpoint of EVA-02 into one for a config of ours.

The config is a Cascade Mask R-CNN of ``CroprViT`` and ``SimpleFPN``, such as
``configs/no_pruning/cascade-mask-rcnn_eva02-l_...py``, or has a
``CroprDetector`` around it. The result is for its ``load_from``;
``backbone.pretrained`` can be False then, unless the ViT has a class token,
which no detector of EVA-02 brings. The source is ViTDet's Cascade Mask R-CNN
in detectron2. Its authors evaluate the models that come from Objects365 with
averaged weights: ``--ema``.

mmdet agrees with detectron2 in the order of classes (background last), of RoI
features (channel, row, column), of anchors (ratio; centres at multiples of
the stride, 8 strides wide) and of box deltas (x, y, width, height). Done here:

* There a stage divides its deltas by (10, 10, 5, 5), (20, 20, 10, 10) or
  (30, 30, 15, 15), here it multiplies them by ``target_stds``, 0.033 for 1/30
  in the third: ``bbox_pred`` is scaled by the quotient.
* mmdet has a mask head per stage and averages their masks. Copies of the one
  mask head predict what it does; training sets them apart.
* Position embeddings lose the class token's unless the model has one, and are
  resampled as there: bicubic without timm's antialiasing.

Different until fine-tuned: most blocks of EVA-02 attend within windows, with
rotary positions of the window, all of ours to the whole image. Their weights
fit, their outputs are others. And mmdet averages the class scores of the
stages before the softmax, detectron2 after it.
"""
import argparse
import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn
from torch.nn import functional as F

from mmcropr.models.backbones.pretrained import convert as convert_vit
from mmcropr.models.necks import SimpleFPN
from mmcropr.utils.files import written_whole
from mmcropr.utils.loading import UnsafeCheckpointError, load_file

StateDict = Dict[str, Tensor]
NET, POSITIONS = 'backbone.net.', 'backbone.net.pos_embed'
BOX_WEIGHTS = ((10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15))
CLASS_LAYERS = r'.*\.(box_predictor\.\d\.cls_score|mask_head\.predictor)\.'
LEFT_OUT = {
    r'backbone\.net\.(.*\.)?(rope|rope_win|rope_glb)\.freqs_(cos|sin)$':
    'rotary positions are computed',
    r'pixel_(mean|std)$': 'pixel statistics are in the config',
    r'proposal_generator\.anchor_generator\.cell_anchors\.\d$':
    'anchors are in the config',
    r'roi_heads\.box_predictor\.\d\.fed_loss_cls_weights$':
    'it weights a loss that is not ours',
}  # yapf: disable
NOT_THERE = {
    r'auxiliary_head\.': 'the auxiliary head is ours',
    r'(detector\.)?backbone\.reducers\.': 'reducers are ours',
    r'(detector\.)?backbone\.vit\.cls_token$': 'EVA-02 detects without one',
}  # yapf: disable


def find_reason(table: Dict[str, str], key: str) -> Optional[str]:
    return next((why for k, why in table.items() if re.match(k, key)), None)


def read_source(path: str, ema: bool,
                trust: bool = False) -> StateDict:
    """Weights in a file of detectron2: 'model', or averaged 'ema_state'.

    Raises:
        ValueError: If it cannot be read (code in it is not run), has no such
            weights or those of another model.
    """
    try:
        content = load_file(path, trust=trust)
    except FileNotFoundError:
        raise ValueError(f'{path}: no such file') from None
    except UnsafeCheckpointError:
        raise
    except Exception as error:  # damaged files raise many kinds
        raise ValueError(
            f'{path} cannot be read as a checkpoint: it is truncated, '
            f'something else ({type(error).__name__})') from error
    content = content if isinstance(content, dict) else {}
    key = 'ema_state' if ema else 'model'
    state = content.get(key, {} if ema else content)
    if not state or not isinstance(state, dict) or not all(
            isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f'{path} has no weights under {key!r}, only: '
                         f'{", ".join(map(str, list(content)[:5]))}')
    for part in (NET, 'roi_heads.'):
        if not any(key.startswith(part) for key in state):
            raise ValueError(f'{path} is no detector of EVA-02: no key starts '
                             f'with {part}; it has {next(iter(state))}')
    return state


def build_target(config: str) -> nn.Module:
    """Model of a config, with random weights.

    Raises:
        ValueError: If it cannot be built or is no detector of this kind.
    """
    expected = 'CascadeRCNN', 'CroprViT', 'SimpleFPN'
    try:
        cfg = Config.fromfile(config)
        part = cfg.model.get('detector', cfg.model)
        kinds = part.type, part.backbone.type, part.neck
        if all(name in str(kind) for name, kind in zip(expected, kinds)):
            part.backbone.pretrained = False
            init_default_scope(cfg.get('default_scope', 'mmengine'))
            return MODELS.build(cfg.model)
    except Exception as error:  # a config may do anything
        raise ValueError(f'no detector can be built from {config}. '
                         f'{type(error).__name__}: {error}') from error
    raise ValueError(f'{config} is no CascadeRCNN of mmcropr.CroprViT and '
                     f'mmcropr.SimpleFPN, but {kinds[0]} of {kinds[1]}')


def name_modules(detector: nn.Module) -> Dict[str, List[str]]:
    """Their modules behind the ViT -> the names that ours have."""
    names: Dict[str, List[str]] = defaultdict(list)

    def add(old: str, new: str, layer: Optional[nn.Module] = None) -> None:
        if hasattr(layer, 'conv'):
            # timm calls the norm of a convolution bn, mmcv after its class
            norm = getattr(layer, 'norm_name', 'bn')
            names[f'{old}.norm'].append(f'{new}.{norm}')
            new = f'{new}.conv'
        names[old].append(new)

    path, neck = next((name, module)
                      for name, module in detector.named_modules()
                      if isinstance(module, SimpleFPN))
    for n, (level, stride) in enumerate(zip(neck.levels, neck.strides)):
        old = f'backbone.simfp_{round(math.log2(stride))}'
        for k, layer in enumerate(level):
            add(f'{old}.{k}', f'{path}.levels.{n}.{k}', layer)
    rpn, roi = 'proposal_generator.rpn_head', detector.roi_head
    for k, layer in detector.rpn_head.rpn_conv.named_children():
        add(f'{rpn}.conv.conv{k}', f'rpn_head.rpn_conv.{k}', layer)
    add(f'{rpn}.objectness_logits', 'rpn_head.rpn_cls')
    add(f'{rpn}.anchor_deltas', 'rpn_head.rpn_reg')
    for i, head in enumerate(roi.bbox_head):
        old, new = f'roi_heads.box_head.{i}', f'roi_head.bbox_head.{i}'
        for k, layer in enumerate(head.shared_convs):
            add(f'{old}.conv{k + 1}', f'{new}.shared_convs.{k}', layer)
        add(f'{old}.fc1', f'{new}.shared_fcs.0')
        add(f'roi_heads.box_predictor.{i}.cls_score', f'{new}.fc_cls')
        add(f'roi_heads.box_predictor.{i}.bbox_pred', f'{new}.fc_reg')
    for i, head in enumerate(getattr(roi, 'mask_head', ())):
        old, new = 'roi_heads.mask_head', f'roi_head.mask_head.{i}'
        for k, layer in enumerate(head.convs):
            add(f'{old}.mask_fcn{k + 1}', f'{new}.convs.{k}', layer)
        add(f'{old}.deconv', f'{new}.upsample')
        add(f'{old}.predictor', f'{new}.conv_logits')
    return names


def adapt(state: StateDict, detector: nn.Module) -> StateDict:
    """The same with box deltas in units of ours, and with the position
    embedding (1, 1 + side**2, D) as the ViT has it."""
    state, vit = dict(state), detector.backbone.vit
    for i, head in enumerate(detector.roi_head.bbox_head[:len(BOX_WEIGHTS)]):
        stds = torch.tensor(head.bbox_coder.stds)
        scale = 1 / (torch.tensor(BOX_WEIGHTS[i]) * stds)
        for leaf, shape in ('weight', (4, 1)), ('bias', (4, )):
            key = f'roi_heads.box_predictor.{i}.bbox_pred.{leaf}'
            if key in state and len(state[key]) == 4:
                state[key] = state[key] * scale.view(shape)
    old = state.get(POSITIONS, torch.empty(0))
    side = math.isqrt(old.shape[1] - 1) if old.ndim == 3 else 0
    if side and side**2 == old.shape[1] - 1 and vit.pos_embed is not None:
        size = vit.patch_embed.grid_size
        grid = old[:, 1:].mT.unflatten(2, (side, side)).float()
        if size != (side, side):
            grid = F.interpolate(grid, size=size, mode='bicubic')
        prefix = vit.pos_embed.shape[1] - math.prod(size)
        state[POSITIONS] = torch.cat([old[:, :prefix], grid.flatten(2).mT], 1)
    return state


def name_keys(state: StateDict, detector: nn.Module) -> Dict[str, List[str]]:
    """Their keys -> the names that ours have, none for an unknown key."""
    modules, names, cut = name_modules(detector), {}, len(NET)
    blocks = {k[cut:]: v for k, v in state.items() if k.startswith(NET + 'b')}
    blocks = convert_vit(blocks, detector.backbone.vit)
    # timm only renames weights of blocks, so a weight tells its new name
    blocks = {id(value): name for name, value in blocks.items()}
    for key, value in state.items():
        module, _, leaf = key.rpartition('.')
        names[key] = [f'{name}.{leaf}' for name in modules.get(module, ())]
        if key.startswith(NET):
            names[key] = [f'backbone.vit.{blocks.get(id(value), key[cut:])}']
    return names


def convert(state: StateDict, model: nn.Module) -> Tuple[StateDict, List[str]]:
    """Rename every tensor of a checkpoint.

    Args:
        state: Of EVA-02's detector.
        model: As made by :func:`build_target`.

    Returns:
        Weights for ``model``, and what became of every key of both.

    Raises:
        ValueError: If a key is unknown, has another shape or is missing.
    """
    detector = getattr(model, 'detector', model)
    prefix = '' if detector is model else 'detector.'
    target, excuses = model.state_dict(), dict(NOT_THERE)
    names, values = name_keys(state, detector), adapt(state, detector)
    result, report = {}, []
    for key, value in values.items():
        shape, why = tuple(state[key].shape), find_reason(LEFT_OUT, key)
        if why:
            report.append(f'{key} {shape}: left out, {why}')
            continue
        for name in [prefix + name for name in names[key]] or ['']:
            if name not in target:
                raise ValueError(f'unknown key {key!r} {shape}: the model of '
                                 'the config has nothing like it')
            expected = tuple(target[name].shape)
            what = f'{key} {shape} -> {name} {expected}'
            if value.shape == expected:
                result[name] = value
                report.append(what)
            elif re.match(CLASS_LAYERS, key) and shape[1:] == expected[1:]:
                excuses[re.escape(name)] = 'the source has other classes'
                report.append(f'{what}: left out, other classes')
            else:
                raise ValueError(f'another shape: {what}')
    if not any(key.startswith('roi_heads.mask_head.') for key in state):
        # as in the models of Objects365, which has no masks
        excuses[r'(detector\.)?roi_head\.mask_head\.'] = 'no mask head there'
    return result, report + explain_missing(target, result, excuses)


def explain_missing(target: StateDict, result: StateDict,
                    excuses: Dict[str, str]) -> List[str]:
    """Why weights are not in the source; a ValueError if for no reason."""
    report = []
    for key in [key for key in target if key not in result]:
        shape, why = tuple(target[key].shape), find_reason(excuses, key)
        if why is None:
            raise ValueError(f'the source has nothing for {key} {shape}')
        report.append(f'{key} {shape}: not in the source, {why}')
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config of a Cascade Mask R-CNN')
    parser.add_argument('src', help="EVA-02's .pth")
    parser.add_argument('dst', type=Path, help='.pth to write')
    parser.add_argument('--overwrite', action='store_true')
    parser.add_argument(
        '--trust-checkpoint', action='store_true',
        help='run code that is pickled in the source, if there is any')
    parser.add_argument(
        '--ema', action='store_true', help='take the averaged weights')
    args = parser.parse_args()
    if args.dst.exists() and not args.overwrite:
        parser.error(f'{args.dst} exists; give --overwrite to replace it')
    try:
        source = read_source(args.src, args.ema, args.trust_checkpoint)
        state, report = convert(source, build_target(args.config))
        with written_whole(args.dst) as part:
            torch.save(
                dict(state_dict=state, meta=dict(source=args.src)), part)
    except (ValueError, OSError) as error:
        parser.error(' '.join(str(error).split()))
    print('\n'.join(report))
    print(f'{len(state)} tensors -> {args.dst}')


if __name__ == '__main__':
    main()
