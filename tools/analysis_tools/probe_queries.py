# Copyright (c) mmcropr contributors.
"""Where the first Cropr module can sit: train queries behind every block of a
ViT that prunes nothing and learns nothing, on the data of a config, and show
how far their auxiliary losses fall. Queries that cannot learn behind a block
select there as by chance."""
import argparse
import json
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, set_random_seed
from torch import nn

from mmcropr.models.backbones import CroprViT
from mmcropr.models.checks import find_backbone
from mmcropr.models.heads.auxiliary_head import AuxiliaryHead
from mmcropr.utils.checkpoint import read
from mmcropr.utils.files import written_whole
from mmcropr.utils.loading import load_safely
from mmcropr.utils.logs import import_hosts, one_line_errors

POINTS = (.25, .5, .75, 1.)  # of the iterations, at which losses are shown


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=' '.join(__doc__.split()))
    parser.add_argument('config', help='with a Cropr reducer and its '
                        'auxiliary head')
    parser.add_argument(
        'checkpoint', nargs='?', help='of any model with that ViT; by '
        'default the one that the config begins with')
    parser.add_argument('--iters', type=int, default=500)
    parser.add_argument(
        '--lr', type=float, help='by default that of the config')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--json', type=Path, help='write the result there')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
        help='override settings of the config')
    parser.add_argument(
        '--debug', action='store_true', help='show where an error is from')
    args = parser.parse_args(argv)
    if args.iters < len(POINTS):
        parser.error(f'--iters must be {len(POINTS)} or more, got '
                     f'{args.iters}')
    return args


def dicts_of(part: Any) -> Iterator[dict]:
    """Every dict in a config."""
    if isinstance(part, dict):
        yield part
        part = list(part.values())
    if isinstance(part, (list, tuple)):
        for item in part:
            yield from dicts_of(item)


def with_modules(cfg: Config) -> Config:
    """The same config with a module behind every block that Last Layer Fusion
    leaves room for.

    Raises:
        ValueError: If its backbone has no Cropr.
    """
    backbones = [part for part in dicts_of(cfg.model)
                 if 'CroprViT' in str(part.get('type'))]
    reducers = [part.get('reducer') for part in backbones]
    if not (len(reducers) == 1 and isinstance(reducers[0], dict)
            and str(reducers[0].get('type')).split('.')[-1] == 'Cropr'):
        raise ValueError(
            'a config with one backbone=dict(type=\'mmcropr.CroprViT\', '
            'reducer=dict(type=\'mmcropr.Cropr\', ...)) is needed, got '
            f'reducer={reducers or "none, for there is no CroprViT"}')
    backbone, reducer = backbones[0], reducers[0]
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    bare = MODELS.build({
        **{key: value for key, value in backbone.items()
           if key not in ('reducer', 'init_cfg')}, 'pretrained': False})
    depth, fuse_at = len(bare.vit.blocks), bare.fuse_at
    last = fuse_at if fuse_at is not None and fuse_at < depth - 1 else (
        depth - 2)
    for key in ('rate', 'keep', 'keep_rate', 'slope'):
        reducer.pop(key, None)
    reducer.update(tpr=.5, modules=list(range(last)), align=1)
    for part in dicts_of(cfg.model):
        if 'num_modules' in part:
            part['num_modules'] = last
    return cfg


def load_backbone(backbone: CroprViT, path: str) -> None:
    """Weights of a checkpoint's backbone, without its reducers.

    Raises:
        ValueError: If it is of another backbone.
        OSError: If there is none.
    """
    content = read(path)
    state = content.get('state_dict', content)
    own = {key.split('backbone.', 1)[1]: value
           for key, value in state.items() if 'backbone.' in key}
    own = {key: value for key, value in own.items()
           if not key.startswith('reducers.')}
    expected = {key for key in backbone.state_dict()
                if not key.startswith('reducers.')}
    if expected != set(own):
        odd = sorted(expected ^ set(own))[:3]
        raise ValueError(
            f'{path} is of another backbone: of {len(expected)} weights '
            f'{len(expected & set(own))} are in it ({", ".join(odd)}, ...)')
    try:
        backbone.load_state_dict(own, strict=False)
    except RuntimeError as error:
        last = str(error).strip().splitlines()[-1].strip()
        raise ValueError(f'{path} is of another backbone: {last}') from error


class Probe(nn.Module):
    """Queries behind every block of a frozen ViT, and what trains them.

    Args:
        model: With a CroprViT and one auxiliary head.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.backbone = model.train(), find_backbone(model)
        heads = [m for m in model.modules() if isinstance(m, AuxiliaryHead)]
        if len(heads) != 1:
            raise ValueError(f'the model has {len(heads)} auxiliary heads '
                             'that train queries, and 1 is needed')
        self.head, = heads
        self.head.check_backbone(self.backbone)
        self.backbone.set_progress((0, 1))
        model.requires_grad_(False)
        for part in (self.head, *self.backbone.reducers):
            part.requires_grad_(True)

    def losses(self, data: dict) -> List[torch.Tensor]:
        """Of every module, for a batch as the loader gives it."""
        inner = getattr(self.model, 'detector', self.model)
        data = inner.data_preprocessor(data, True)
        state = self.backbone(data['inputs'])
        found = self.head.loss(state, data['data_samples'])
        return [
            sum(value for key, value in found.items()
                if key.startswith(f'module{module}.')
                and 'loss' in key.split('.')[-1])
            for module in range(self.head.num_modules)
        ]


def probe(cfg: Config, args: argparse.Namespace) -> Dict[str, Any]:
    """Train the queries; losses of every block at :data:`POINTS`, each the
    mean over a tenth of the iterations before it."""
    set_random_seed(args.seed)
    if args.checkpoint:  # in the place of what the config begins with
        for part in dicts_of(cfg.model):
            part.pop('init_cfg', None)
            if 'pretrained' in part:
                part['pretrained'] = False
    model = MODELS.build(cfg.model)
    model.init_weights()
    if args.checkpoint:
        load_backbone(find_backbone(model), args.checkpoint)
    run = Probe(model.to(args.device))
    lr = args.lr or cfg.optim_wrapper.optimizer.lr
    weights = [p for p in run.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        weights, lr, weight_decay=cfg.optim_wrapper.optimizer.get(
            'weight_decay', .01))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, args.iters)
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=args.seed)
    seen: List[List[float]] = []
    while len(seen) < args.iters:
        for data in loader:
            losses = run.losses(data)
            optimizer.zero_grad()
            sum(losses).backward()
            optimizer.step()
            schedule.step()
            seen.append([float(loss) for loss in losses])
            if len(seen) == args.iters:
                break
    few = max(1, args.iters // 10)
    ends = [round(point * args.iters) for point in POINTS]
    means = torch.tensor([
        torch.tensor(seen[end - few:end]).mean(0).tolist() for end in ends])
    return dict(
        iters=ends, lr=lr, checkpoint=args.checkpoint,
        blocks=[dict(block=block, losses=means[:, block].tolist())
                for block in range(means.shape[1])])


def show(result: Dict[str, Any]) -> None:
    print('auxiliary loss after iteration  ' +
          ''.join(f'{count:>9}' for count in result['iters']))
    for row in result['blocks']:
        print(f'  queries behind block {row["block"]:<9}' +
              ''.join(f'{loss:9.4f}' for loss in row['losses']))


def main(argv: Optional[List[str]] = None) -> None:
    args = parse_args(argv)
    with one_line_errors(args.debug):
        load_safely()
        cfg = Config.fromfile(args.config)
        cfg.merge_from_dict(args.cfg_options or {})
        import_hosts(cfg)
        result = probe(with_modules(cfg), args)
        if args.json:
            with written_whole(args.json) as part:
                part.write_text(json.dumps(result, indent=2) + '\n')
        show(result)


if __name__ == '__main__':
    sys.exit(main())
