# Copyright (c) mmcropr contributors.
"""Pictures of what a trained model prunes on images of one's own: when every
patch left, what is left block by block, beside the prediction; and one HTML
page to explore them."""
import argparse
from collections import Counter
from pathlib import Path
from typing import Dict, Iterator, Optional, Tuple

import numpy as np
from mmengine.utils import ProgressBar

from mmcropr.utils.logs import one_line_errors
from mmcropr.visualization import (Item, Picture, Predictor, check_out,
                                   list_images, removal_figure, save_figure,
                                   strip_figure, truth_of, write_explorer)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=' '.join(__doc__.split()))
    parser.add_argument('config', help='of the training')
    parser.add_argument('checkpoint', help='of the training, or a model of '
                        'demo/models')
    parser.add_argument('images', nargs='?', type=Path,
                        help='an image, or a folder of them')
    parser.add_argument(
        '--test', type=int, metavar='N',
        help="instead of images: N of the config's own test set, with their "
        'ground truth')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR')
    parser.add_argument('--name', help='of the method in the pictures; by '
                        'default that of its config')
    parser.add_argument(
        '--also', nargs=3, action='append', default=[],
        metavar=('NAME', 'CONFIG', 'CHECKPOINT'),
        help='another method beside it; several times for several')
    parser.add_argument('--dpi', type=int, default=150)
    parser.add_argument('--device', default='cpu')
    parser.add_argument(
        '--trust-checkpoint', action='store_true',
        help='load checkpoints that can run code, from a source you trust')
    parser.add_argument(
        '--debug', action='store_true', help='show where an error is from')
    args = parser.parse_args()
    if (args.images is None) == (args.test is None):
        parser.error('give images, or --test N')
    for name in ('dpi', 'test'):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f'--{name} must be 1 or more')
    return args


def make_predictors(args: argparse.Namespace) -> Dict[str, Predictor]:
    """Models by name.

    Raises:
        ValueError: If two have one name, or one has no reducer.
    """
    name = args.name or Path(args.config).stem.split('_')[0]
    models = [(name, args.config, args.checkpoint), *args.also]
    names = [model[0] for model in models]
    if len(set(names)) < len(names):
        raise ValueError(f'the methods are named {names}: give each a name of '
                         'its own, by --name and the first word of --also.')
    result = {}
    for name, config, checkpoint in models:
        result[name] = Predictor(config, checkpoint, args.device,
                                 args.trust_checkpoint)
        if not result[name].backbone.num_modules:
            raise ValueError(f'the backbone of {config} has no reducer, so '
                             'there is no pruning to see.')
    return result


def predictions(predictors: Dict[str, Predictor], args: argparse.Namespace
                ) -> Iterator[Tuple[str, Dict[str, Picture], Optional[str]]]:
    """Name of every image, what each model made of it, and why it could not,
    if it could not."""
    if args.images is not None:
        for path in list_images(args.images):
            try:
                yield path.stem, {
                    name: predictor(path)
                    for name, predictor in predictors.items()}, None
            except (ValueError, OSError) as error:
                yield path.name, {}, str(error)
        return
    data = {name: p.test_set() for name, p in predictors.items()}
    names: Counter = Counter()
    for number in range(min(args.test, len(next(iter(data.values()))))):
        pictures = {
            name: predictor.predict(data[name][number])
            for name, predictor in predictors.items()}
        sample = next(iter(pictures.values())).result
        name = Path(getattr(sample, 'img_path', str(number))).stem
        names[name] += 1  # in folders of classes they come again
        yield (f'{name}-{names[name]}' if names[name] > 1 else name,
               pictures, None)


def draw(name: str, pictures: Dict[str, Picture],
         predictors: Dict[str, Predictor], args: argparse.Namespace) -> Item:
    """Write the pictures of an image.

    Raises:
        ValueError: If a model saw it in several windows.
    """
    first = next(iter(pictures))
    image = pictures[first].image
    views: Dict[str, np.ndarray] = {}
    if truth_of(pictures[first].result) and args.test:
        views['ground truth'] = predictors[first].draw(
            pictures[first], truth=True)
    for method, picture in pictures.items():
        if len(picture.fates) != 1:
            raise ValueError(
                f'{method} sees {name} in {len(picture.fates)} windows: set '
                "test_cfg=dict(mode='whole') in its config.")
        views[method] = predictors[method].draw(picture)
    fates = {method: p.fates[0] for method, p in pictures.items()}
    save_figure(
        removal_figure(image, fates, views), args.out / f'{name}.png',
        args.dpi)
    save_figure(
        strip_figure(image, fates), args.out / f'{name}_blocks.png', args.dpi)
    return Item(name, image, fates)


def main() -> None:
    args = parse_args()
    with one_line_errors(args.debug):
        if args.images is not None:
            check_out(args.out, list_images(args.images))
        predictors = make_predictors(args)
        number = args.test or len(list_images(args.images))
        bar, items, failed = ProgressBar(number), [], []
        for name, pictures, error in predictions(predictors, args):
            try:
                if error is not None:
                    raise ValueError(error)
                items.append(draw(name, pictures, predictors, args))
            except (ValueError, OSError) as problem:
                failed.append(f'{name}: {problem}')
            bar.update()
        print()
        if items:
            write_explorer(items, args.out / 'explorer.html')
            print(f'{len(items)} images: {args.out}/*.png, '
                  f'{args.out}/explorer.html')
        for line in failed:
            print(f'left out: {line}')
        if failed:
            raise SystemExit(1)


if __name__ == '__main__':
    main()
