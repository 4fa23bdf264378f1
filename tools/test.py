# Copyright (c) mmcropr contributors.
"""Evaluate a checkpoint of the model of a config."""
import argparse
import os
from pathlib import Path

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.evaluator import DumpResults

from mmcropr.models.checks import unwrap
from mmcropr.utils.checkpoint import check_checkpoint
from mmcropr.utils.data import check_data
from mmcropr.utils.dist import leave_processes, use_cpu_processes
from mmcropr.utils.loading import load_safely
from mmcropr.utils.logs import ShortLogRunner, import_hosts, one_line_errors
from mmcropr.utils.rates import add_tpr, tpr_suffix, with_tpr


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--work-dir', help='folder for logs and metrics (default: that of the '
        'config, or work_dirs/<its name>; with --tpr 0.5, that and _tpr50)')
    parser.add_argument(
        '--out', metavar='FILE.pkl', help='write the predictions there')
    parser.add_argument(
        '--show', action='store_true', help='show predictions in a window')
    parser.add_argument(
        '--show-dir', help='save pictures of the predictions there')
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds per window')
    parser.add_argument(
        '--exported', metavar='FILE', help='test this file of '
        'tools/deploy/export.py in place of the model, of a detector in place '
        'of its encoder')
    parser.add_argument(
        '--tta', action='store_true', help='test-time augmentation')
    add_tpr(parser)
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
        help='replace settings of the config')
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none', help='how the processes of this job are started')
    parser.add_argument(
        '--trust-checkpoint', action='store_true',
        help='run code that is pickled in the checkpoint, if there is any')
    parser.add_argument(
        '--debug', action='store_true', help='show tracebacks of errors')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out must end in .pkl or .pickle, got {args.out}')
    if args.exported and args.tpr is not None:
        parser.error('--exported goes not with --tpr: a file has its share')
    if args.exported and args.tta:
        parser.error('--exported goes not with --tta')
    if not Path(args.checkpoint).is_file() and '://' not in args.checkpoint:
        parser.error(f'no checkpoint at {args.checkpoint}')
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def set_visualization(cfg: Config, args: argparse.Namespace) -> None:
    """Make the host's visualization hook draw what --show(-dir) ask for."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise ValueError(
            '--show and --show-dir draw by the visualization hook of the '
            'host, and default_hooks of the config has none: add '
            "visualization=dict(type='SegVisualizationHook') for mmseg, "
            "'DetVisualizationHook' for mmdet or 'VisualizationHook' for "
            'mmpretrain.')
    if 'visualizer' not in cfg:  # that of mmengine would draw nothing
        kind = {
            'SegVisualizationHook': 'SegLocalVisualizer',
            'DetVisualizationHook': 'DetLocalVisualizer'
        }.get(hook.type, 'UniversalVisualizer')
        raise ValueError(
            f"--show and --show-dir need visualizer=dict(type='{kind}', "
            "vis_backends=[dict(type='LocalVisBackend')]) in the config")
    # mmpretrain's hook has a name of its own for it
    hook['enable' if hook.type == 'VisualizationHook' else 'draw'] = True
    hook.setdefault('interval', 1)  # mmseg would draw every 50th batch
    if args.show:
        hook.show, hook.wait_time = True, args.wait_time
    if args.show_dir:
        if hook.type == 'DetVisualizationHook':
            hook.test_out_dir = args.show_dir
        elif hook.type == 'VisualizationHook':
            hook.out_dir = args.show_dir
        else:
            cfg.visualizer.save_dir = args.show_dir


def set_tta(cfg: Config) -> None:
    """Wrap model and pipeline for test-time augmentation."""
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        raise SystemExit('--tta needs tta_model and tta_pipeline in the '
                         'config')
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def test(cfg: Config, args: argparse.Namespace) -> None:
    """Build the runner and test the checkpoint of the command line."""
    with one_line_errors(args.debug):
        runner = ShortLogRunner.from_cfg(cfg)
        model = unwrap(runner.model)
        check_checkpoint(model.module if args.tta else model, args.checkpoint)
        if args.exported:
            from mmcropr.deploy.substitute import use_file
            use_file(model, Path(args.exported))
    if args.out:
        runner.test_evaluator.metrics.append(
            DumpResults(out_file_path=args.out))
    with one_line_errors(args.debug or not args.exported):
        runner.test()


def load_config(args: argparse.Namespace) -> Config:
    """Config file and command line -> the config that runs."""
    cfg = Config.fromfile(args.config)
    cfg.launcher = args.launcher
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    if args.tpr is not None:
        cfg = with_tpr(cfg, args.tpr)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    else:
        # A share's pruning maps are not those of another
        work_dir = cfg.get('work_dir') or (
            Path('work_dirs') / Path(args.config).stem)
        cfg.work_dir = f'{work_dir}{tpr_suffix(args.tpr)}'
    cfg.load_from = args.checkpoint
    if args.show or args.show_dir:
        set_visualization(cfg, args)
    if args.tta:
        set_tta(cfg)
    return cfg


def main() -> None:
    args = parse_args()
    with one_line_errors(args.debug):
        cfg = load_config(args)
        load_safely(args.trust_checkpoint)
        import_hosts(cfg)
        check_data(cfg, 'test_dataloader')
        use_cpu_processes(cfg)
    test(cfg, args)
    leave_processes()


if __name__ == '__main__':
    main()
