# Copyright (c) mmcropr contributors.
"""Train the model of a config."""
import argparse
import os
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmcropr.engine.hooks import FiniteLossHook, NonFiniteLossError
from mmcropr.models.checks import check_model, unwrap
from mmcropr.utils.checkpoint import (check_checkpoint, check_init,
                                      check_start, read)
from mmcropr.utils.data import check_annotations, check_data, check_start_files
from mmcropr.utils.dist import (is_first_process, leave_processes,
                                use_cpu_processes)
from mmcropr.utils.files import claim_folder
from mmcropr.utils.loading import load_safely
from mmcropr.utils.logs import ShortLogRunner, import_hosts, one_line_errors
from mmcropr.utils.resume import check_resume, find_checkpoint


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
    parser.add_argument(
        '--trust-checkpoint', action='store_true',
        help='run code that is pickled in checkpoints, if there is any')
    parser.add_argument(
        '--debug', action='store_true', help='show tracebacks of errors')
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
    if args.resume == 'auto':
        cfg.resume = 'auto'
    elif args.resume is not None:
        cfg.resume, cfg.load_from = True, args.resume
    return cfg


class BegunHook(Hook):
    """Knows whether the first iteration has begun."""

    begun = False

    def before_train_iter(self, *args: Any, **kwargs: Any) -> None:
        self.begun = True


def check_weights(runner: Runner, cfg: Config) -> bool:
    """Check whatever the weights come from; whether anything is left to
    train."""
    model = unwrap(runner.model)
    if not cfg.get('resume'):
        if cfg.get('load_from'):
            check_start(model, cfg.load_from)
        else:
            check_init(model)
        return True
    check_checkpoint(model, cfg.load_from, exact=True)
    return check_resume(read(cfg.load_from), cfg.load_from, cfg)


def find_resumed(cfg: Config) -> None:
    """Name the checkpoint that ``resume`` goes on from, or begin anew, with
    what ``load_from`` of the config names."""
    start = cfg.get('load_from')
    if cfg.get('resume') == 'auto' or (cfg.get('resume') and not start):
        found = find_checkpoint(cfg.work_dir)
        cfg.resume, cfg.load_from = found is not None, found or start
        if found is None and is_first_process():
            print(f'nothing to resume in {cfg.work_dir}: a new run' +
                  (f' that begins with {start}' if start else ''))


def train(cfg: Config, debug: bool = False) -> None:
    """Build the runner and train."""
    with one_line_errors(debug):
        find_resumed(cfg)
        runner = ShortLogRunner.from_cfg(cfg)
        check_model(runner.model)
        if not check_weights(runner, cfg):
            return
    hook = BegunHook()
    runner.register_hook(hook)
    if not any(isinstance(h, FiniteLossHook) for h in runner.hooks):
        runner.register_hook(FiniteLossHook())  # configs of a host's runtime
    try:
        with one_line_errors(debug, NonFiniteLossError):
            runner.train()
    except Exception:
        # before the first iteration it is the config or the data
        with one_line_errors(debug or hook.begun):
            raise


def main() -> None:
    args = parse_args()
    with one_line_errors(args.debug):
        cfg = load_config(args)
        load_safely(args.trust_checkpoint)
        import_hosts(cfg)
        check_data(cfg, 'train_dataloader', 'val_dataloader')
        check_start_files(cfg)
        lock = None
        if is_first_process():
            check_annotations(cfg, 'train_dataloader')
            lock = claim_folder(cfg.work_dir)
        use_cpu_processes(cfg)
    train(cfg, args.debug)
    leave_processes()
    if lock is not None:
        lock.close()


if __name__ == '__main__':
    main()
