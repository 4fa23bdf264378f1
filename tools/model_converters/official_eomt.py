# Copyright (c) mmcropr contributors.
"""Turn a checkpoint of the EoMT authors' repository into ours.

It becomes a model of mmdet with ``mmcropr.EoMTHead`` as ``panoptic_head``, or
one of mmseg with ``mmcropr.EoMTSegHead`` as ``decode_head``. Checkpoints of
DINOv3 are published as differences: ``--base`` names the weights of DINOv3,
in timm's layout, that their backbone is added to.
"""
import argparse
import re
from collections import OrderedDict
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import torch
from torch import Tensor

from mmcropr.models.backbones.pretrained import read_checkpoint
from mmcropr.utils.files import written_whole

StateDict = Dict[str, Tensor]
# What wraps the network in a checkpoint of a training run
WRAPPERS = r'^network\.|_orig_mod\.'
BACKBONE = 'encoder.backbone.'
RULES = [
    (r'^encoder\.backbone\.', 'backbone.vit.'),
    (r'^q\.weight$', '{head}.query_feat.weight'),
    (r'^class_head\.', '{head}.cls_embed.'),
    (r'^mask_head\.', '{head}.mask_embed.'),
    (r'^upscale\.', '{head}.upscale.'),
    (r'^attn_mask_probs$', '{head}.attn_mask_probs'),
]
# Facts of a config, not of a checkpoint
SETTINGS = {
    'encoder.pixel_mean': 'mean of the data preprocessor (/ 255)',
    'encoder.pixel_std': 'std of the data preprocessor (/ 255)',
    'criterion.empty_weight': 'class_weight of the loss',
}


def add_base(state: StateDict, base: StateDict) -> StateDict:
    """A checkpoint whose backbone holds differences, with the weights that
    they are differences to added. The probabilities of masked attention are
    a difference as well, to 1, where they are negative.

    Raises:
        ValueError: If a weight of the backbone is not among these, or has
            another shape.
    """
    result = OrderedDict()
    for key, value in state.items():
        if key.startswith(BACKBONE):
            other = base.get(key[len(BACKBONE):])
            if other is None or other.shape != value.shape:
                found = 'not there' if other is None else tuple(other.shape)
                raise ValueError(
                    f'{key} {tuple(value.shape)} is {found} in the weights of '
                    '--base: give those that the checkpoint was trained from, '
                    "in timm's layout.")
            value = value + other.to(value.dtype)
        elif key == 'attn_mask_probs' and (value < 0).any():
            value = value + 1
        result[key] = value
    return result


def convert(state: StateDict,
            head: str = 'panoptic_head',
            base: Optional[StateDict] = None
            ) -> Tuple[StateDict, List[str]]:
    """Rename every tensor of a checkpoint.

    Args:
        state: The authors' state dict.
        head: 'panoptic_head' (mmdet) or 'decode_head' (mmseg).
        base: Weights to add to those of the backbone.

    Returns:
        Ours, and a line per tensor, ``'old -> new'`` or where it went.

    Raises:
        ValueError: If a key is not known; none is dropped silently.
    """
    state = OrderedDict(
        (re.sub(WRAPPERS, '', key), value) for key, value in state.items())
    if 'q.weight' not in state:
        raise ValueError('this is no EoMT checkpoint: it has no key q.weight '
                         'or network.q.weight.')
    state = state if base is None else add_base(state, base)
    result, report = OrderedDict(), []
    for key, value in state.items():
        if key in SETTINGS:
            report.append(f'{key} {value.flatten().tolist()}: left out, '
                          f'{SETTINGS[key]}')
            continue
        rule = next((r for r in RULES if re.search(r[0], key)), None)
        if rule is None:
            raise ValueError(f'unknown key {key!r} {tuple(value.shape)} in an '
                             'EoMT checkpoint.')
        name = re.sub(rule[0], rule[1], key).replace('{head}', head)
        result[name] = value.clone()
        report.append(f'{key} -> {name} {tuple(value.shape)}')
    return result, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('src', help="the authors' .bin, .pth or .safetensors")
    parser.add_argument('dst', type=Path, help='.pth to write')
    parser.add_argument(
        '--head', choices=('panoptic_head', 'decode_head'),
        default='panoptic_head', help='of mmdet or of mmseg')
    parser.add_argument('--base', help='weights that it is a difference to')
    parser.add_argument('--overwrite', action='store_true')
    parser.add_argument(
        '--trust-checkpoint', action='store_true',
        help='run code that is pickled in the source, if there is any')
    args = parser.parse_args()
    if args.dst.exists() and not args.overwrite:
        parser.error(f'{args.dst} exists; give --overwrite to replace it')
    try:
        source = read_checkpoint(args.src, args.trust_checkpoint)
        base = args.base and read_checkpoint(args.base, args.trust_checkpoint)
        state, report = convert(source, args.head, base or None)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    with written_whole(args.dst) as part:
        torch.save(dict(state_dict=state, meta=dict(source='official')), part)
    print('\n'.join(report))
    print(f'{len(state)} tensors -> {args.dst}')


if __name__ == '__main__':
    main()
