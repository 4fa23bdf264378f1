# Copyright (c) mmcropr contributors.
"""Count parameters and multiply-accumulates of a config at inference, or with
``--train`` the work and the memory of a training step."""
import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Sequence, Tuple, Union

import torch
from mmengine.config import Config, DictAction
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from mmcropr.models import CroprViT
from mmcropr.models.work import fuses_at, tokens_per_block
from mmcropr.utils.build import (Encoder, WholeModel, build_for_inference,
                                 head_of_tokens, plain_model)
from mmcropr.utils.files import written_whole
from mmcropr.utils.logs import one_line_errors
from mmcropr.utils.rates import add_tpr, with_tpr

sys.path.insert(0, str(Path(__file__).parent))
from training import count_step, parse_share  # noqa: E402

DRAWS = ('uniform_', 'normal_', 'kaiming_uniform_', 'kaiming_normal_')
LINEAR = ('mm', 'addmm', 'convolution')


class Undrawn(TorchFunctionMode):
    """Zeros in place of drawn weights: only their shapes count here, and to
    draw 300 million numbers takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        if getattr(func, '__name__', '') in DRAWS:
            # Not what was in memory: a draw can be repeated until it is in
            # some range
            with torch.no_grad():
                return (args[0] if args else kwargs['tensor']).zero_()
        return func(*args, **kwargs or {})


def count_flops(module: nn.Module, shape: tuple,
                parts: Sequence[nn.Module] = ()) -> Tuple[Counter, Counter]:
    """Operations of one forward, by what is computed: all of them, and those
    of some parts.

    Args:
        module: Takes an image. Tensors are fake, so nothing is computed.
        shape: Of the image, (B, C, H, W).
        parts: Of it, none inside another.

    Raises:
        RuntimeError: If the forward leaves a part out.
    """
    for part in module.modules():
        if hasattr(part, 'fused_attn'):
            # A fused kernel hides its two matrix products from the counter.
            part.fused_attn = False
    module.requires_grad_(False)  # the counter would look for gradients
    counter = FlopCounterMode(display=False)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    spent, before = Counter(), {}

    def so_far() -> Counter:
        return Counter(counter.flop_counts['Global'])

    def enter(part: nn.Module, args: Any) -> None:
        before[part] = so_far()

    def leave(part: nn.Module, args: Any, output: Any) -> None:
        spent.update(so_far() - before[part])

    hooks = [hook for part in parts for hook in (
        part.register_forward_pre_hook(enter),
        part.register_forward_hook(leave))]
    with fake, counter, torch.no_grad():
        module(torch.empty(shape))
    for hook in hooks:
        hook.remove()
    if len(before) < len(parts):
        raise RuntimeError(f'{type(module).__name__} runs only {len(before)} '
                           f'of the {len(parts)} parts to be counted')
    return so_far(), spent


def macs_of(counts: Counter) -> Dict[str, int]:
    """Multiply-accumulates: ``linear_macs`` of linear and convolution layers,
    ``total_macs`` with attention."""
    named = Counter()
    for op, flops in counts.items():
        named[getattr(op, '__name__', str(op)).split('.')[0]] += flops
    return dict(linear_macs=sum(named[name] for name in LINEAR) // 2,
                total_macs=sum(named.values()) // 2)


def count_macs(model: nn.Module, shape: tuple) -> Tuple[Dict, Dict]:
    """:func:`macs_of` the encoder, and of the whole model where an image does
    not decide what it computes, as in a detector it does.

    Args:
        model: Of a config.
        shape: Of the image, (B, C, H, W).
    """
    whole, encoder = WholeModel(model), Encoder(model)
    if whole.is_detector:
        return macs_of(count_flops(encoder, shape)[0]), {}
    if head_of_tokens(model) is not None:
        return tuple(macs_of(count_flops(part, shape)[0])
                     for part in (encoder, whole))
    parts = [part for part in (encoder.backbone, encoder.neck)
             if part is not None]
    everything, encoding = count_flops(whole, shape, parts)
    return macs_of(encoding), macs_of(everything)


def analyse(config: Union[str, Config], shape: tuple) -> Dict[str, Any]:
    """Everything that the tool reports of one config.

    Args:
        config: Config whose backbone is a CroprViT, or its path.
        shape: Height and width of the image in pixels.
    """
    with Undrawn():
        model = build_for_inference(config)
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, CroprViT):
        raise SystemExit(
            f'the backbone of the model is {type(backbone).__name__}; this '
            'tool counts models with a mmcropr.CroprViT (of one without a '
            'reducer, too), the get_flops.py of its host all others.')
    image = (1, backbone.in_channels, *shape)
    patch = backbone.trunk.patch_size
    grid = tuple(-(-size // p) for size, p in zip(shape, patch))
    fuse_at = fuses_at(backbone, getattr(model, 'neck', None))
    queries = getattr(head_of_tokens(model), 'num_queries', 0)
    encoder, whole = count_macs(model, image)
    result = dict(
        params=sum(p.numel() for p in Encoder(model).parameters()),
        **encoder,
        tokens_per_block=tokens_per_block(backbone, grid, fuse_at, queries))
    result['model'] = dict(
        params=sum(p.numel() for p in model.parameters()), **whole)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--shape', nargs=2, type=int, metavar=('H', 'W'), default=None,
        help='image size in pixels (default: img_size of the backbone)')
    parser.add_argument('--json', type=Path, help='write the result there')
    parser.add_argument(
        '--train', action='store_true',
        help='count a step of training instead, forward and backward, which '
        'is done for that, on the CPU')
    parser.add_argument(
        '--batch', type=int, default=1, help='images of that step')
    parser.add_argument(
        '--amp', choices=('bfloat16', 'float16'),
        help='autocast in that step')
    parser.add_argument(
        '--share', type=parse_share, default=(1, 1), metavar='0..1',
        help='of the full pruning rate in that step (default: 1)')
    add_tpr(parser)
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
        help='override settings of the config')
    parser.add_argument(
        '--debug', action='store_true', help='show where an error is from')
    args = parser.parse_args()
    if args.batch < 1:
        parser.error(f'--batch must be 1 or more, got {args.batch}')
    if args.share != (1, 1) and not args.train:
        parser.error('--share goes with --train; the share of all patches '
                     'is --tpr')
    with one_line_errors(args.debug):
        report(args)


def giga(count: float) -> str:
    """In units of 1e9, with more digits where it is less than one."""
    return f'{count / 1e9:.{1 if count >= 1e9 else 3}f}'


def print_counts(result: Dict[str, Any]) -> None:
    print(f'  parameters   {result["params"] / 1e6:.1f} M')
    print(f'  linear MACs  {giga(result["linear_macs"])} G  '
          '(linear and convolution layers, as the paper counts)')
    print(f'  total MACs   {giga(result["total_macs"])} G  '
          '(with attention)')
    print(f'  tokens       {result["tokens_per_block"]}')


def print_step(result: Dict[str, Any]) -> None:
    print(f'  forward and backward  {giga(result["flops"])} GFLOP')
    print(f'  of it attention       {giga(result["attention_flops"])} GFLOP')
    head = result['auxiliary_flops']
    print('  of it auxiliary head  ' + (
        'not to be told apart' if head is None else f'{giga(head)} GFLOP'))
    print(f'  kept for backward     {result["kept_bytes"] / 1e9:.3f} GB')
    print(f'  gradients held early  '
          f'{result["early_gradient_bytes"] / 1e9:.3f} GB')


def report(args: argparse.Namespace) -> None:
    """Analyse, print and write."""
    shape = args.shape
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    if args.tpr is not None:
        cfg = with_tpr(cfg, args.tpr)
    if shape is None:
        model = plain_model(cfg.model)
        size = model.backbone.get('img_size', 224)
        shape = (size, size) if isinstance(size, int) else size
    if min(shape) < 1:
        raise ValueError(f'--shape must be positive, got {tuple(shape)}')
    if args.train:
        amp = getattr(torch, args.amp) if args.amp else None
        result = dict(
            batch=args.batch, amp=args.amp, share=list(args.share),
            **count_step(cfg, tuple(shape), args.batch, amp, args.share))
    else:
        result = analyse(cfg, tuple(shape))
    result = dict(
        config=args.config, cfg_options=args.cfg_options or {}, tpr=args.tpr,
        shape=list(shape), **result)  # yapf: disable
    if args.json:
        with written_whole(args.json) as part:
            part.write_text(json.dumps(result, indent=2) + '\n')
    share = '' if args.tpr is None else f' --tpr {args.tpr:g}'
    print(f'{args.config}{share} at {shape[0]} x {shape[1]} px, '
          f'{"one training step" if args.train else "encoder"}:')
    (print_step if args.train else print_counts)(result)


if __name__ == '__main__':
    main()
