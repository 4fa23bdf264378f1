# Copyright (c) mmcropr contributors.
"""Write the plain model of a training run: config and checkpoint without
anything that only training needs.

A detector loses its ``CroprDetector``, a segmentor its auxiliary heads; every
Cropr module keeps one query, the sum of its queries, which scores alike. Both
models then run on a random image, and nothing is written unless their
feature maps, outputs of the heads and predictions are bit-equal.
"""
import argparse
from pathlib import Path
from typing import Any, Dict, List, Sequence

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader, load_checkpoint
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmcropr.utils.build import blank_samples, plain_model
from mmcropr.utils.checkpoint import AUXILIARY, check_checkpoint
from mmcropr.utils.files import written_whole
from mmcropr.utils.loading import load_safely
from mmcropr.utils.logs import one_line_errors

# What a run trains with, besides the model.
TRAINING = ('train_dataloader', 'train_cfg', 'train_pipeline',
            'optim_wrapper', 'param_scheduler', 'auto_scale_lr', 'detector',
            'custom_hooks', 'load_from', 'resume', 'randomness', 'work_dir')


def plain_config(cfg: Config) -> Config:
    """Config of the plain model with what tests and inference need.

    Args:
        cfg: Config of the training run; it stays as it is.

    Raises:
        ValueError: If its backbone is a LoRAModel.
    """
    plain = {k: v for k, v in cfg.to_dict().items() if k not in TRAINING}
    model = plain_model(cfg.model).to_dict()
    backbone = model['backbone']
    if 'module' in backbone:
        raise ValueError(
            f'{backbone.get("type")} keeps the ViT that it changes out of '
            'checkpoints, so no plain model can be made of this one; test it '
            'by the config of the training.')
    backbone['pretrained'] = False
    for part in (model, backbone):  # where the run started from
        part.pop('init_cfg', None)
    reducers = backbone.get('reducer') or []
    for reducer in reducers if isinstance(
            reducers, (list, tuple)) else [reducers]:
        if 'num_queries' in reducer:
            reducer['num_queries'] = 1
    hooks = plain.get('default_hooks') or {}
    plain['default_hooks'] = {
        name: hook
        for name, hook in hooks.items() if not _only_trains(hook)
    }
    plain['custom_hooks'] = [
        hook for hook in cfg.get('custom_hooks') or ()
        if 'mmcropr' in str(hook['type']) and not _only_trains(hook)
    ]
    return Config(dict(plain, model=model, load_from=None, resume=False))


def _only_trains(hook: Any) -> bool:
    return hook is not None and any(
        name in str(hook['type'])
        for name in ('PruningCurriculumHook', 'FiniteLossHook',
                     'MaskAnnealingHook'))


def build(cfg: Config, checkpoint: str) -> nn.Module:
    """Model of a config with the weights of a checkpoint, in eval mode.

    Raises:
        ValueError: If the checkpoint does not hold all its weights.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = MODELS.build(cfg.model).eval()
    check_checkpoint(model, checkpoint)
    load_checkpoint(model, checkpoint, map_location='cpu')
    return model


def plain_state(model: nn.Module) -> Dict[str, Tensor]:
    """Weights of the plain model inside a trained one, whose queries are
    folded by it."""
    model = getattr(model, 'detector', model)
    model.backbone.fold_queries()
    return {
        key: value
        for key, value in model.state_dict().items()
        if not key.startswith(AUXILIARY)
    }


@torch.no_grad()
def outputs(model: nn.Module, shape: Sequence[int]) -> List[Tensor]:
    """Feature maps, outputs of the heads and predictions on one random image,
    all tensors of them; reducers that draw random numbers draw the same every
    time."""
    torch.manual_seed(0)
    channels = getattr(model, 'detector', model).backbone.in_channels
    image = torch.rand(1, channels, *shape)
    features = model.extract_feat(image)
    torch.manual_seed(1)
    if not hasattr(model, 'with_bbox'):
        return _tensors([features, model(image, mode='tensor')])
    # What the heads say before anything is filtered, and what is left
    raw = model(image, blank_samples(image), mode='tensor')
    torch.manual_seed(1)
    found = model(image, blank_samples(image), mode='predict')
    return _tensors([features, raw, found])


def _tensors(part: Any) -> List[Tensor]:
    """All tensors inside tuples, lists, dicts and data elements."""
    if isinstance(part, Tensor):
        return [part]
    if isinstance(part, BaseDataElement):
        part = [part.get(key) for key in sorted(part.keys())]
    elif isinstance(part, dict):
        part = [part[key] for key in sorted(part)]
    elif not isinstance(part, (list, tuple)):
        return []
    return [tensor for item in part for tensor in _tensors(item)]


def strip(config: str, checkpoint: str, out_dir: Path,
          shape: Sequence[int]) -> None:
    """Write ``out_dir/<config name>.py`` and ``.pth``; ``out_dir`` appears
    when both are there and proven.

    Raises:
        ValueError: If the checkpoint is not of this config, or the stripped
            model predicts something else.
    """
    cfg = Config.fromfile(config)
    trained = build(cfg, checkpoint)
    if not hasattr(getattr(trained, 'detector', trained).backbone,
                   'fold_queries'):
        raise ValueError(f'{config} has no mmcropr.CroprViT backbone, so '
                         'there is nothing to strip.')
    shape = shape or getattr(trained, 'detector',
                             trained).backbone.trunk.vit.patch_embed.img_size
    expected = outputs(trained, shape)
    source = CheckpointLoader.load_checkpoint(checkpoint, 'cpu')
    plain, name = plain_config(cfg), Path(config).stem
    kept = ('dataset_meta', 'epoch', 'iter', 'mmengine_version')
    meta = {
        k: v for k, v in source.get('meta', {}).items() if k in kept}
    meta['cfg'] = plain.pretty_text
    with written_whole(out_dir) as new:
        new.mkdir()
        plain.dump(new / f'{name}.py')
        torch.save(
            dict(state_dict=plain_state(trained), meta=meta),
            new / f'{name}.pth')
        stripped = build(
            Config.fromfile(new / f'{name}.py'), str(new / f'{name}.pth'))
        found = outputs(stripped, shape)
        if len(found) != len(expected) or any(
                not torch.equal(a, b) for a, b in zip(found, expected)):
            raise ValueError(
                f'the stripped model of {config} predicts something else than '
                'the trained one, so nothing was written; please report it.')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('config', help='config of the training run')
    parser.add_argument('checkpoint', help='its checkpoint')
    parser.add_argument('out_dir', type=Path, help='folder to make')
    parser.add_argument(
        '--shape', nargs=2, type=int, metavar=('H', 'W'),
        help='image of the comparison in pixels (default: img_size of the '
        'backbone)')
    parser.add_argument(
        '--trust-checkpoint', action='store_true',
        help='run code that is pickled in the checkpoint, if there is any')
    parser.add_argument(
        '--debug', action='store_true', help='show where an error is from')
    args = parser.parse_args()
    load_safely(args.trust_checkpoint)
    if args.out_dir.exists():
        parser.error(f'{args.out_dir} exists; choose another folder')
    if not Path(args.checkpoint).is_file():
        parser.error(f'no checkpoint at {args.checkpoint}')
    with one_line_errors(args.debug):
        strip(args.config, args.checkpoint, args.out_dir.resolve(), args.shape)
    name = Path(args.config).stem
    print(f'predictions are bit-equal; wrote {args.out_dir}/{name}.py and '
          f'{name}.pth')


if __name__ == '__main__':
    main()
