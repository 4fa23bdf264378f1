# Copyright (c) mmcropr contributors.
"""Export a trained model to a file that runs without mmcropr.

The file is compared with PyTorch on images of the config's test data, or of
``--images``, and appears under its name only if both keep the same tokens and
compute the same.
"""
import argparse
from pathlib import Path
from typing import Tuple

from mmengine.config import Config, DictAction

from mmcropr.utils.loading import load_safely
from mmcropr.utils.logs import import_hosts, one_line_errors
from mmcropr.utils.rates import add_tpr, tpr_suffix, with_tpr

FORMATS = ('onnx', 'torch-export', 'aot', 'openvino')
SUFFIX = dict(zip(FORMATS, ('.onnx', '.pt2', '.pt2', '.xml')))


def add_proof_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that ``verify.py`` has, too."""
    parser.add_argument('config', help='config file of the training')
    parser.add_argument('checkpoint', help='its checkpoint')
    parser.add_argument(
        '--images', nargs='+', default=None, metavar='PATH',
        help='image files or folders to compare on (default: the test data '
        'of the config)')
    parser.add_argument(
        '--num-images', type=int, default=8, help='at most (default: 8)')
    add_tpr(parser)
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
        help='override settings of the config')
    parser.add_argument(
        '--trust-checkpoint', action='store_true',
        help='run code that is pickled in the checkpoint, if there is any')
    parser.add_argument(
        '--debug', action='store_true', help='show where an error is from')


def load_config(args: argparse.Namespace) -> Tuple[Config, list]:
    """Config of the command line, and the image files to compare on."""
    from mmcropr.deploy.images import find_images, folders_of
    load_safely(args.trust_checkpoint)
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    if args.tpr is not None:
        cfg = with_tpr(cfg, args.tpr)
    import_hosts(cfg)
    if not Path(args.checkpoint).is_file():
        raise FileNotFoundError(f'no checkpoint at {args.checkpoint}')
    if args.num_images < 1:
        raise ValueError(f'--num-images must be 1 or more, got '
                         f'{args.num_images}')
    images = find_images(args.images or folders_of(cfg), args.num_images)
    return cfg, images


def size_of(cfg: Config) -> tuple:
    """Height and width in pixels that a config trains on."""
    from mmcropr.utils.build import plain_model
    size = plain_model(cfg.model).backbone.get('img_size', 224)
    return (size, size) if isinstance(size, int) else tuple(size)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_proof_arguments(parser)
    parser.add_argument('--format', choices=FORMATS, default='onnx')
    parser.add_argument(
        '--out', type=Path, help='file to write (default: the name of the '
        'config, with that of --tpr, in the folder of the checkpoint)')
    parser.add_argument(
        '--shape', nargs=2, type=int, metavar=('H', 'W'),
        help='image size in pixels (default: img_size of the backbone)')
    parser.add_argument(
        '--dynamic-batch', action='store_true',
        help='leave the number of images free; else it is 1')
    parser.add_argument(
        '--part', choices=('whole', 'encoder'), default='whole',
        help="'encoder' is backbone and necks, all that can be exported of a "
        'detector')
    parser.add_argument(
        '--half', action='store_true',
        help='in half precision; says how far it drifts')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with one_line_errors(args.debug):
        from mmcropr.deploy.export import export
        cfg, images = load_config(args)
        shape = args.shape or size_of(cfg)
        if min(shape) < 1:
            raise ValueError(f'--shape must be positive, got {tuple(shape)}')
        name = (Path(args.config).stem + tpr_suffix(args.tpr) +
                SUFFIX[args.format])
        out = args.out or Path(args.checkpoint).with_name(name)
        report = export(cfg, args.checkpoint, args.format, out, shape,
                        args.part, args.dynamic_batch, args.half, images)
        print('\n'.join(report.lines()))
        print(f'wrote {out}')


if __name__ == '__main__':
    main()
