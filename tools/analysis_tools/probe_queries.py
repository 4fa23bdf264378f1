# Copyright (c) mmcropr contributors.
"""Where the first Cropr module can sit: train queries behind every block of a
frozen ViT that prunes nothing, on the data of a config, and show how far their
auxiliary losses fall, beside those of queries that stay random. Where the two
end alike, queries have learned nothing, and select as by chance."""
import argparse
import copy
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import torch
from mmengine.config import Config, DictAction
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, set_random_seed
from mmengine.utils import ProgressBar
from torch import Tensor, nn

from mmcropr.models.backbones import CroprViT
from mmcropr.models.checks import HEADS, find_backbone
from mmcropr.models.heads.auxiliary_head import AuxiliaryHead
from mmcropr.models.reducers import Cropr
from mmcropr.models.reducers.build import find_reducer
from mmcropr.structures import Route, TokenState
from mmcropr.utils.checkpoint import check_init, read
from mmcropr.utils.data import check_data, check_start_files
from mmcropr.utils.files import written_whole
from mmcropr.utils.loading import load_safely
from mmcropr.utils.logs import import_hosts, one_line_errors, quiet

POINTS = (.25, .5, .75, 1.)  # of the iterations, at which losses are shown
LEAST = 20  # iterations, two of which are a tenth
AMOUNTS = ('rate', 'keep', 'keep_rate', 'slope', 'modules')


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=' '.join(__doc__.split()))
    parser.add_argument('config', help='with a Cropr reducer and its '
                        'auxiliary head')
    parser.add_argument(
        'checkpoint', nargs='?', help='of a segmentor, detector or classifier '
        'with that ViT as its backbone; by default what the config begins '
        'with')
    parser.add_argument('--iters', type=int, default=500)
    parser.add_argument(
        '--lr', type=float, help='by default that of the config')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--json', type=Path, help='write the result there')
    parser.add_argument(
        '--trust-checkpoint', action='store_true',
        help='load checkpoints that can run code, from a source you trust')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
        help='override settings of the config')
    parser.add_argument(
        '--debug', action='store_true', help='show where an error is from')
    args = parser.parse_args(argv)
    if args.iters < LEAST:
        parser.error(f'--iters must be {LEAST} or more, got {args.iters}')
    if args.lr is not None and args.lr <= 0:
        parser.error(f'--lr must be above 0, got {args.lr}')
    return args


def dicts_of(part: Any) -> Iterator[dict]:
    """Every dict in a config."""
    if isinstance(part, dict):
        yield part
        part = list(part.values())
    if isinstance(part, (list, tuple)):
        for item in part:
            yield from dicts_of(item)


def backbone_of(model: dict) -> dict:
    """Config of the one backbone with Cropr in a model's config.

    Raises:
        ValueError: If there is none.
    """
    backbones = [part for part in dicts_of(model)
                 if 'CroprViT' in str(part.get('type'))]
    reducers = [part.get('reducer') for part in backbones]
    if len(reducers) != 1 or not isinstance(reducers[0], dict) or not (
            issubclass(find_reducer(reducers[0]), Cropr)):
        raise ValueError(
            "a config with one backbone=dict(type='mmcropr.CroprViT', "
            "reducer=dict(type='mmcropr.Cropr', ...)) is needed, got "
            f'reducer={reducers or "none, for there is no CroprViT"}')
    return backbones[0]


def with_modules(cfg: Config) -> Config:
    """A config with a module behind every block that Last Layer Fusion leaves
    room for, which are those that a schedule has by default.

    Raises:
        ValueError: If its backbone has no Cropr.
    """
    cfg = copy.deepcopy(cfg)
    backbone = backbone_of(cfg.model)
    reducer, maps = backbone['reducer'], backbone.get('out_indices')
    for key in AMOUNTS:
        reducer.pop(key, None)
    reducer.update(tpr=.5, align=1)
    if backbone.get('out_type') == 'featmap' and maps:
        last = min([maps] if isinstance(maps, int) else maps)
        reducer['modules'] = list(range(last))
    bare = {key: value for key, value in backbone.items()
            if key != 'init_cfg'}
    count = MODELS.build(dict(bare, pretrained=False)).num_modules
    for part in dicts_of(cfg.model):
        if 'num_modules' in part:
            part['num_modules'] = count
    return cfg


def without_start(cfg: Config) -> Config:
    """A config whose model begins with random weights."""
    cfg = copy.deepcopy(cfg)
    for part in dicts_of(cfg.model):
        part.pop('init_cfg', None)
        if 'pretrained' in part:
            part['pretrained'] = False
    return cfg


def check_begins(cfg: Config) -> None:
    """Raise a ValueError if a config begins with random weights."""
    starts = [cfg.model.get('init_cfg')]
    starts += [part.get(key) for part in dicts_of(cfg.model)
               for key in ('init_cfg', 'pretrained')]
    if not any(starts):
        raise ValueError(
            'queries of random features say nothing: give a CHECKPOINT of a '
            'trained model with that ViT; the config begins with none (it has '
            'no init_cfg and no pretrained).')


def load_backbone(backbone: CroprViT, path: str) -> None:
    """Weights of a checkpoint's backbone, without its reducers.

    Raises:
        ValueError: If it cannot be read, or has another backbone, several or
            none.
    """
    content = read(path)
    state = content.get('state_dict', content)
    first = 'vit.patch_embed.proj.weight'
    starts = [key[:-len(first)] for key in state if key.endswith(first)]
    if len(starts) != 1:
        raise ValueError(
            f'{path} has {len(starts)} CroprViT backbones '
            f'({", ".join(starts) or "no key ends with " + first}) where 1 is '
            'needed. Weights of a ViT alone go into the config: '
            "backbone=dict(pretrained='FILE').")
    own = {key[len(starts[0]):]: value for key, value in state.items()
           if key.startswith(starts[0])}
    if any(key.startswith('reducers.') for key in own):
        print(f'{path} was trained with a reducer, so what its blocks tell is '
              'that of a ViT that has learned to prune.', file=sys.stderr)
    own, expected = ({key: value for key, value in part.items()
                      if not key.startswith('reducers.')}
                     for part in (own, backbone.state_dict()))
    odd = [key for key in sorted(set(own) | set(expected))
           if key not in own or key not in expected]
    if odd:
        raise ValueError(
            f'{path} is of another backbone: {len(odd)} weights are in one of '
            f'the two only, such as {", ".join(odd[:3])}')
    try:
        backbone.load_state_dict(own, strict=False)
    except RuntimeError as error:
        last = str(error).strip().splitlines()[-1].strip()
        raise ValueError(f'{path} is of another backbone: {last}') from error


class Probe(nn.Module):
    """Queries behind every block of a frozen ViT, what trains them, and a
    control: the same head trained by queries that stay as they are.

    Args:
        model: With a CroprViT with Cropr.

    Raises:
        ValueError: If it has no auxiliary head for them, or several, or one
            that does not fit.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.train()
        # Parts of the model, which an optimizer is to meet once
        self._backbone = (find_backbone(model), )
        heads = [m for m in model.modules() if isinstance(m, AuxiliaryHead)]
        count = self.backbone.num_modules
        if len(heads) != 1:
            raise ValueError(
                f'the model has {len(heads)} auxiliary heads that train '
                f'queries, and 1 is needed: add {HEADS[Route].format(n=count)}'
                '.')
        self._head = (heads[0], )
        self.head.check_backbone(self.backbone)
        self.backbone.set_progress((0, 1))
        self.backbone.vit.eval()  # the same tokens whenever an image comes
        model.requires_grad_(False)
        self.random = copy.deepcopy(self.backbone.reducers)
        self.control = copy.deepcopy(self.head)
        for part in (self.head, self.control, self.backbone.reducers):
            part.requires_grad_(True)

    @property
    def backbone(self) -> CroprViT:
        return self._backbone[0]

    @property
    def head(self) -> AuxiliaryHead:
        return self._head[0]

    def forward(self, data: dict) -> List[List[Tensor]]:
        """Losses of every module, of queries that learn and of the control,
        for a batch as the loader gives it."""
        inner = getattr(self.model, 'detector', self.model)
        data = inner.data_preprocessor(data, True)
        state, samples = self.backbone(data['inputs']), data['data_samples']
        return [self._losses(self.head, state, samples),
                self._losses(self.control, self._at_random(state), samples)]

    def _at_random(self, state: TokenState) -> TokenState:
        return replace(state, records=[
            Route(route.tokens, reducer, route.mask)
            for route, reducer in zip(state.records, self.random)])

    @staticmethod
    def _losses(head: AuxiliaryHead, state: TokenState,
                samples: list) -> List[Tensor]:
        found = head.loss(state, samples)
        return [
            sum(value for key, value in found.items()
                if key.startswith(f'module{module}.')
                and 'loss' in key.split('.')[-1])
            for module in range(head.num_modules)
        ]


def make_probe(cfg: Config, args: argparse.Namespace) -> Probe:
    """The model of a config with the weights that it shall have."""
    set_random_seed(args.seed)
    with quiet():
        model = MODELS.build(cfg.model)
        check_init(model)
        model.init_weights()
        if args.checkpoint:
            load_backbone(find_backbone(model), args.checkpoint)
        return Probe(model.to(args.device)).to(args.device)


def train(run: Probe, cfg: Config, iters: int, seed: int) -> Tensor:
    """Losses of all iterations, (iters, 2, modules): of queries that learn,
    and of the control. Optimizer and precision are the config's, the data
    come in random order, and the learning rate falls as a cosine."""
    with quiet():
        wrapper = build_optim_wrapper(run, cfg.optim_wrapper)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        wrapper.optimizer, iters)
    loader = dict(cfg.train_dataloader,
                  sampler=dict(type='InfiniteSampler', shuffle=True))
    batches = iter(Runner.build_dataloader(loader, seed=seed))
    bar, seen = ProgressBar(iters), []
    for _ in range(iters):
        with wrapper.optim_context(run):
            losses = run(next(batches))
        wrapper.update_params(sum(map(sum, losses)))
        schedule.step()
        seen.append([[loss.item() for loss in part] for part in losses])
        bar.update()
    print()
    return torch.tensor(seen)


def probe(cfg: Config, args: argparse.Namespace) -> Dict[str, Any]:
    """Losses of every block: at the first iteration, and at :data:`POINTS` as
    means over a tenth of the iterations before; in the last tenth, how much
    lower than those of random queries they are, and the standard error of
    that."""
    run = make_probe(cfg, args)
    blocks = list(run.backbone.schedule.modules)
    seen = train(run, cfg, args.iters, args.seed)
    few = args.iters // 10
    ends = [round(point * args.iters) for point in POINTS]
    means = torch.stack([seen[0]] + [
        seen[end - few:end].mean(0) for end in ends])
    gains = seen[-few:, 1] - seen[-few:, 0]
    errors = gains.std(0) / len(gains)**.5
    return dict(
        iters=[1, *ends], lr=cfg.optim_wrapper.optimizer.lr,
        checkpoint=args.checkpoint,
        blocks=[dict(block=block, losses=means[:, 0, i].tolist(),
                     random=means[-1, 1, i].item(),
                     gain=gains[:, i].mean().item(), error=errors[i].item())
                for i, block in enumerate(blocks)])


def show(result: Dict[str, Any]) -> None:
    print('auxiliary loss at iteration ' +
          ''.join(f'{count:>9}' for count in result['iters']) +
          '   random queries   difference')
    for row in result['blocks']:
        print(f'  queries behind block {row["block"]:<5}' +
              ''.join(f'{loss:9.4f}' for loss in row['losses']) +
              f'{row["random"]:17.4f}   {row["gain"]:.4f} '
              f'± {row["error"]:.4f}')


def prepare(args: argparse.Namespace) -> Config:
    """The config of a probe, after a look at what it needs."""
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    if args.lr is not None:
        cfg.optim_wrapper.optimizer.lr = args.lr
    import_hosts(cfg)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    backbone_of(cfg.model)
    check_data(cfg, 'train_dataloader')
    if args.checkpoint is None and cfg.get('load_from'):
        args.checkpoint = cfg.load_from
    if args.checkpoint and '://' not in args.checkpoint and not (
            Path(args.checkpoint).is_file()):
        raise FileNotFoundError(f'no checkpoint at {args.checkpoint}')
    if args.checkpoint is None:
        check_begins(cfg)
        check_start_files(cfg)
    else:
        cfg = without_start(cfg)
    with quiet():
        return with_modules(cfg)


def main(argv: Optional[List[str]] = None) -> None:
    args = parse_args(argv)
    with one_line_errors(args.debug):
        load_safely(args.trust_checkpoint)
        result = probe(prepare(args), args)
        show(result)
        if args.json:
            with written_whole(args.json) as part:
                part.write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
    main()
