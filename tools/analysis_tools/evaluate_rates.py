# Copyright (c) mmcropr contributors.
"""How much can go: the accuracy of a trained model at other shares of pruned
patches, without training it anew, as a table and a curve."""
import argparse
import json
import sys
import tempfile
import warnings
from numbers import Real
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

from mmengine.config import Config, DictAction
from mmengine.runner import Runner
from mmengine.utils import ProgressBar

from mmcropr.models.checks import find_backbone, unwrap
from mmcropr.models.work import encoder_work
from mmcropr.utils.checkpoint import check_checkpoint
from mmcropr.utils.data import check_data
from mmcropr.utils.dist import use_cpu_processes
from mmcropr.utils.files import written_whole
from mmcropr.utils.loading import load_safely
from mmcropr.utils.logs import import_hosts, one_line_errors, quiet
from mmcropr.utils.rates import as_share, with_tpr

sys.path.insert(0, str(Path(__file__).parent))
from plots import plot_shares  # noqa: E402

SHARES = (0., .5, .7, .8, .9, .95, .97)
METRICS = ('mIoU', 'coco/bbox_mAP', 'coco_panoptic/PQ', 'accuracy/top1', 'd1')
Point = Dict[str, Any]


class LeftOut(ValueError):
    """A share has no row of its own: why."""


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=' '.join(__doc__.split()))
    add = parser.add_argument
    add('config', help='of the training')
    add('checkpoint', help='of the training')
    add('--out', type=Path, required=True, metavar='DIR',
        help='for rates.json, rates.md, rates.png and rates.svg')
    add('--tpr', type=as_share, nargs='+', default=SHARES, metavar='0..1',
        help='shares of the patches; of those that leave the same tokens the '
        'first counts; default: ' + ' '.join(
            f'{share:g}' for share in SHARES))
    add('--metric', help='that is drawn; default: the first that an '
        f'evaluation gives of {", ".join(METRICS)}')
    add('--name', help='of the method; by default that of its config')
    add('--also', nargs=3, action='append', default=[],
        metavar=('NAME', 'CONFIG', 'CHECKPOINT'),
        help='another method beside it; several times for several')
    add('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
        help='replace settings of all configs')
    add('--trust-checkpoint', action='store_true',
        help='load checkpoints that can run code, from a source you trust')
    add('--debug', action='store_true', help='show where an error is from')
    args = parser.parse_args(argv)
    args.tpr = sorted(set(args.tpr))
    if args.out.exists() and not args.out.is_dir():
        parser.error(f'--out {args.out} is no folder')
    name = args.name or Path(args.config).stem.split('_')[0]
    args.models = [[name, args.config, args.checkpoint], *args.also]
    names = [model[0] for model in args.models]
    if len(set(names)) < len(names):
        parser.error(f'the methods are named {names}: give each a name of its '
                     'own, by --name and the first word of --also')
    return args


def load(config: str, checkpoint: str, options: Optional[dict]) -> Config:
    """Config of a method, after a look at what its evaluation needs.

    Raises:
        ValueError: If it has no reducer, or several, or its data are missing.
        FileNotFoundError: If there is no such checkpoint.
    """
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options or {})
    if '://' not in checkpoint and not Path(checkpoint).is_file():
        raise FileNotFoundError(f'no checkpoint at {checkpoint}')
    import_hosts(cfg)
    with_tpr(cfg, 0)  # refuses what has not one reducer
    if cfg.get('test_dataloader') is None:
        raise ValueError('the config has no test_dataloader.')
    check_data(cfg, 'test_dataloader')
    use_cpu_processes(cfg)
    cfg.load_from, cfg.log_level = checkpoint, 'WARNING'
    return cfg


def evaluate(cfg: Config, name: str, seen: Set[Tuple[int, ...]]) -> Point:
    """Metrics of a config's own evaluation, and what its schedule leaves.

    Args:
        cfg: With the checkpoint.
        name: Of the method.
        seen: Lengths behind the modules, of the method's earlier rows; those
            of this row are added.

    Returns:
        ``method``; ``share`` of the patches that is pruned, percent;
        ``tokens`` behind the last module, and ``ratio``, how many times as
        much work an encoder without pruning has, both on images of
        ``img_size``; ``metrics``.

    Raises:
        LeftOut: If the model cannot be built, or has the lengths of an earlier
            row.
        ValueError: If the checkpoint is of another model.
    """
    with tempfile.TemporaryDirectory() as folder, quiet(), (
            warnings.catch_warnings()):
        warnings.simplefilter('ignore', UserWarning)  # of lengths: in a table
        # Names of their own: mmengine keeps what it has built by name
        cfg.work_dir = cfg.experiment_name = folder
        (cfg.get('visualizer') or {}).pop('name', None)
        try:
            runner = Runner.from_cfg(cfg)
        except ValueError as error:
            raise LeftOut(str(error)) from error
        model = unwrap(runner.model)
        backbone = find_backbone(model)
        lengths = tuple(backbone.lengths(training=False))
        if lengths in seen:
            raise LeftOut('the same tokens as another row: ' + ', '.join(
                map(str, lengths)))
        seen.add(lengths)
        check_checkpoint(model, cfg.load_from)
        metrics = {key: float(value) for key, value in runner.test().items()
                   if isinstance(value, Real)}
    trunk, tokens = backbone.trunk, lengths[-1]
    patches = trunk.grid[0] * trunk.grid[1]
    neck = getattr(getattr(model, 'detector', model), 'neck', None)
    return dict(
        method=name, tokens=tokens,
        share=100 * (1 - (tokens - trunk.num_prefix) / patches),
        ratio=encoder_work(backbone, neck).ratio, metrics=metrics)


def choose(metrics: Dict[str, float], metric: Optional[str]) -> str:
    """Metric that is drawn.

    Raises:
        ValueError: Naming those there are, if it is not among them.
    """
    names = METRICS if metric is None else (metric, )
    found = next((name for name in names if name in metrics), None)
    if found is None:
        raise ValueError(
            f'the evaluation gives no {" or ".join(names)}; choose one by '
            f'--metric: {", ".join(sorted(metrics)) or "it gives none"}')
    return found


def table(points: List[Point], metric: str, failed: List[str]) -> str:
    """Markdown."""
    lines = [
        '# Accuracy against the share of patches pruned', '',
        'The weights are the same in all rows of a method, trained at its own '
        'share (in bold), to which they have adapted, unless the rate varied '
        'in training (vary_from of PruningCurriculumHook): a row without '
        'pruning is no model that was trained without it. At the other shares '
        'patches leave evenly, behind the same modules.', '',
        f'| method | patches pruned | tokens left | {metric} | encoder: at '
        'most times as fast |', '| --- | --- | --- | --- | --- |']
    for point in points:
        share = f'{point["share"]:.1f} %'
        share = f'**{share}**' if point['trained'] else share
        lines.append(
            f'| {point["method"]} | {share} | {point["tokens"]} | '
            f'{point["metrics"][metric]:.4g} | {point["ratio"]:.2f} |')
    return '\n'.join([*lines, '', *(f'- left out: {why}' for why in failed)]
                     ).rstrip() + '\n'


def write(points: List[Point], metric: str, failed: List[str],
          args: argparse.Namespace) -> str:
    """All files; the table."""
    args.out.mkdir(parents=True, exist_ok=True)
    points = sorted(points, key=lambda p: p['share'])
    points = [point for name, *_ in args.models for point in points
              if point['method'] == name]
    text = table(points, metric, failed)
    with written_whole(args.out / 'rates.md') as part:
        part.write_text(text)
    with written_whole(args.out / 'rates.json') as part:
        part.write_text(json.dumps(dict(
            metric=metric, points=points, left_out=failed, models={
                name: dict(config=config, checkpoint=checkpoint)
                for name, config, checkpoint in args.models}), indent=2) +
            '\n')
    plot_shares([dict(point, **dict.fromkeys(
        ('median', 'low', 'high'), point['metrics'][metric]))
        for point in points], 'ring: the share of the training',
        args.out / 'rates', metric)
    return text


def run(args: argparse.Namespace) -> None:
    """Everything."""
    configs = {}
    for name, config, checkpoint in args.models:
        try:
            configs[name] = load(config, checkpoint, args.cfg_options)
        except (ValueError, OSError) as error:
            raise ValueError(f'{name}: {error}') from error
    points: List[Point] = []
    failed: List[str] = []
    metric, text = args.metric, ''
    bar = ProgressBar(len(configs) * (len(args.tpr) + 1))
    try:
        for name, cfg in configs.items():
            seen: Set[Tuple[int, ...]] = set()
            own = evaluate(cfg, name, seen)
            metric = choose(own['metrics'], metric)
            points.append(dict(own, trained=True))
            text = write(points, metric, failed, args)
            bar.update()
            for share in args.tpr:
                try:
                    points.append(dict(
                        evaluate(with_tpr(cfg, share), name, seen),
                        trained=False))
                except LeftOut as error:
                    failed.append(f'{name}, {100 * share:g} %: {error}')
                text = write(points, metric, failed, args)
                bar.update()
    finally:
        print()  # behind the bar
    print(text)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    with one_line_errors(args.debug):
        load_safely(args.trust_checkpoint)
        run(args)


if __name__ == '__main__':
    main()
