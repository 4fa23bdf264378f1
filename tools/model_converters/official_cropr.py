# Copyright (c) mmcropr contributors.
"""Turn a checkpoint of the Token Cropr authors' repository into ours.

Both of their tasks are understood. Segmentation becomes a MMSegmentation
``EncoderDecoder`` of ``mmcropr.CroprViT``, ``LinearHead`` and
``CroprSegHead``; classification a mmpretrain ``ImageClassifier`` of
``mmcropr.CroprViT``, ``PoolNeck`` and ``CroprClsHead``. Checkpoints with the
multi-head cross-attention of an ablation need ``num_heads`` in the reducer
and the head of the config (16 by the authors' default; no weight tells).
"""
import argparse
import re
from collections import OrderedDict
from pathlib import Path
from typing import Dict, List, Tuple

import torch
from torch import Tensor

from mmcropr.models.backbones.pretrained import read_checkpoint
from mmcropr.utils.files import written_whole

StateDict = Dict[str, Tensor]
MODULE_RULES = [
    (r'^cropr\.(\d+)\.cross_attn\.queries$', r'backbone.reducers.\1.queries'),
    # The multi-head form of an ablation
    (r'^cropr\.(\d+)\.cross_attn\.(q|k)\.weight$',
     r'backbone.reducers.\1.\2.weight'),
    (r'^cropr\.(\d+)\.cross_attn\.attn_norm\.',
     r'backbone.reducers.\1.attn_norm.'),
    (r'^cropr\.(\d+)\.cross_attn\.(v\.weight$|proj\.)',
     r'{aux}.aggregators.\1.\2'),
    (r'^cropr\.(\d+)\.cross_attn\.mlp_norm\.',
     r'{aux}.aggregators.\1.norm.'),
    (r'^cropr\.(\d+)\.cross_attn\.mlp\.',
     r'{aux}.aggregators.\1.mlp.'),
    (r'^cropr\.(\d+)\.head\.norm\.', r'{aux}.norms.\1.'),
    (r'^cropr\.(\d+)\.head\.head\.', r'{aux}.fcs.\1.'),
]  # yapf: disable
TASK_RULES = {
    'segmentation': (r'^head\.', 'decode_head.conv_seg.'),
    'classification': (r'^head\.', 'head.fc.'),
}
AUXILIARY = {
    'segmentation': 'auxiliary_head',
    'classification': 'head.auxiliary'
}
# Their one norm before the head, over pooled tokens in classification
NORM_RULE = (r'^fc_norm\.', 'backbone.vit.norm.')
TRUNK_RULE = (r'^(?=(blocks|patch_embed|norm|norm_pre|rope)\.'
              r'|(pos_embed|cls_token|reg_token)$)', 'backbone.vit.')


def find_task(state: StateDict) -> str:
    """'segmentation' (a query per patch) or 'classification' (one query).

    Raises:
        ValueError: If there is no Cropr module.
    """
    queries = state.get('cropr.0.cross_attn.queries')
    if queries is None:
        raise ValueError('this is no Token Cropr checkpoint: it has no key '
                         'cropr.0.cross_attn.queries. For the weights of a '
                         "plain ViT use CroprViT(pretrained='FILE').")
    return 'segmentation' if queries.shape[1] > 1 else 'classification'


def convert(state: StateDict) -> Tuple[StateDict, List[str]]:
    """Rename and reshape every tensor of a checkpoint.

    Args:
        state: The authors' state dict.

    Returns:
        Ours, and a list of the renamings ``'old -> new'``.

    Raises:
        ValueError: If a key is not known; none is dropped silently.
    """
    task = find_task(state)
    rules = MODULE_RULES + [TASK_RULES[task], NORM_RULE, TRUNK_RULE]
    result, report = OrderedDict(), []
    for key, value in state.items():
        rule = next((r for r in rules if re.search(r[0], key)), None)
        if rule is None:
            raise ValueError(f'unknown key {key!r} {tuple(value.shape)} in a '
                             f'{task} checkpoint.')
        name = re.sub(rule[0], rule[1], key).replace('{aux}', AUXILIARY[task])
        if name.endswith('.queries'):
            value = value.squeeze(0)
        elif name == 'decode_head.conv_seg.weight':
            value = value[:, :, None, None]
        result[name] = value.clone()
        report.append(f'{key} -> {name} {tuple(value.shape)}')
    return result, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('src', help="the authors' .pth or .safetensors")
    parser.add_argument('dst', type=Path, help='.pth to write')
    parser.add_argument('--overwrite', action='store_true')
    parser.add_argument(
        '--trust-checkpoint', action='store_true',
        help='run code that is pickled in the source, if there is any')
    args = parser.parse_args()
    if args.dst.exists() and not args.overwrite:
        parser.error(f'{args.dst} exists; give --overwrite to replace it')
    try:
        source = read_checkpoint(args.src, args.trust_checkpoint)
        state, report = convert(source)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    with written_whole(args.dst) as part:
        torch.save(dict(state_dict=state, meta=dict(source='official')), part)
    print('\n'.join(report))
    if 'backbone.reducers.0.q.weight' in state:
        print('multi-head cross-attention: the config needs num_heads in the '
              "reducer and the auxiliary head (the authors' default is 16)")
    print(f'{len(state)} tensors -> {args.dst}')


if __name__ == '__main__':
    main()
