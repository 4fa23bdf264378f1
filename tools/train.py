# Copyright (c) mmcropr contributors.
"""Train the model of a config."""
import argparse
import os
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from mmcropr.models.checks import backbones_of, check_model
from mmcropr.utils.checkpoint import check_start
from mmcropr.utils.data import check_annotations, check_data, check_start_files
from mmcropr.utils.dist import (is_first_process, leave_processes,
                                use_cpu_processes)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--work-dir', help='folder for logs and checkpoints '
        '(default: work_dirs/<name of the config>)')
    parser.add_argument(
        '--resume', nargs='?', const='auto', metavar='CHECKPOINT',
        help='go on from a checkpoint, or from the latest one in the work-dir')
    parser.add_argument(
        '--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr', action='store_true',
        help='scale the learning rate to the real batch size')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
        help='replace settings of the config, e.g. '
        'train_dataloader.batch_size=4')
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none', help='how the processes of this job are started')
    # torchrun of old versions passes this one itself
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def load_config(args: argparse.Namespace) -> Config:
    """Config file and command line -> the config that runs."""
    cfg = Config.fromfile(args.config)
    cfg.launcher = args.launcher
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(args.config).stem)
    if args.amp:
        kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
        if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
            raise SystemExit(f'--amp goes with OptimWrapper, not {kind}')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise SystemExit('--auto-scale-lr needs '
                             'auto_scale_lr.base_batch_size in the config')
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    return cfg


def train(cfg: Config) -> None:
    """Build the runner and train."""
    runner = Runner.from_cfg(cfg)
    try:
        if len(backbones_of(runner.model)) == 1:
            check_model(runner.model)
    except ValueError as error:
        raise SystemExit(f'error: {error}') from error
    if cfg.get('load_from') and not cfg.get('resume'):
        try:
            check_start(
                getattr(runner.model, 'module', runner.model), cfg.load_from)
        except ValueError as error:
            raise SystemExit(f'error: {error}') from error
    runner.train()


def main() -> None:
    cfg = load_config(parse_args())
    try:
        check_data(cfg, 'train_dataloader', 'val_dataloader')
        check_start_files(cfg)
        if is_first_process():
            check_annotations(cfg, 'train_dataloader')
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f'error: {error}') from error
    use_cpu_processes(cfg)
    train(cfg)
    leave_processes()


if __name__ == '__main__':
    main()
