# Copyright (c) mmcropr contributors.
"""Make a small real data set: handwritten digits on cluttered backgrounds.

Needs no download: the 1797 digits come with scikit-learn. Every scene is
written with a label map, COCO instances, a panoptic map in COCO's format and
image-level labels, so that mmseg, mmdet and mmpretrain read the same images,
and on request with a depth map.
"""
import argparse
import json
import os
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, Optional, Sequence

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / 'analysis_tools')]
import digits_annotations as annotations  # noqa: E402
import digits_drawing as drawing  # noqa: E402
import digits_photos as photos  # noqa: E402
import digits_writing as writing  # noqa: E402
import foreground_stats  # noqa: E402
from digits_annotations import CLASSES, need  # noqa: E402

SPLITS = ('train', 'val')
MARKER = 'digits_scenes.json'
PATCH = 8  # px, of the models that the numbers printed are for
# What depends on the background, unless it is given
DEFAULTS = dict(
    textures=dict(size=[96, 96], digits=[1, 2], digit_size=[44, 68]),
    photos=dict(size=[192, 192], digits=[2, 3], digit_size=[44, 68]))
FORMAT = 2  # raise it when the same arguments write something else


def _check_arguments(settings: drawing.SceneSettings,
                     counts: Dict[str, int]) -> None:
    sides = (settings.height, settings.width)
    limit, floor = min(sides), drawing.SOURCE_SIDE
    least, most = settings.digits
    low, high = settings.digit_size
    rules = [
        ('--size', sides, limit >= floor, f'at least {floor} px each way'),
        ('--digits', (least, most), 1 <= least <= most,
         'MIN MAX with 1 <= MIN <= MAX'),
        ('--digit-size', (low, high), floor <= low <= high <= limit,
         f'MIN MAX with {floor} <= MIN <= MAX <= {limit} (image side)'),
        ('--clutter', settings.clutter, 0 <= settings.clutter <= 1,
         'from 0 to 1'),
        ('--seed', settings.seed, settings.seed >= 0, '0 or more'),
        ('--num-train', counts['train'], counts['train'] >= 1, '1 or more'),
        ('--num-val', counts['val'], counts['val'] >= 1, '1 or more'),
    ]
    for name, value, good, right in rules:
        if not good:
            raise ValueError(f'{name} must be {right}, got {value}')


def split_samples(targets: np.ndarray) -> Dict[str, np.ndarray]:
    """Share the digits out to the splits, class by class.

    The last digits of each class are for validation, whatever the seed.
    Neighbours are alike, most likely as one person wrote them: a random choice
    would be easier (an SVM gets 99.5 % right there, 96 % here).

    Args:
        targets: Classes 0..9, (S,).

    Returns:
        Rising sample indices of each split, 80 % and 20 %; disjoint.
    """
    members = [np.flatnonzero(targets == c) for c in range(len(CLASSES) - 1)]
    train = [part[:int(len(part) * 0.8)] for part in members]
    val = np.setdiff1d(np.arange(len(targets)), np.concatenate(train))
    return dict(train=np.sort(np.concatenate(train)), val=val)


def _read_marker(out: Path) -> Optional[Dict[str, Any]]:
    """What an earlier run left in a folder; None if it is not ours."""
    try:
        marker = json.loads((out / MARKER).read_text())
    except (OSError, ValueError):
        return None
    ours = isinstance(marker, dict) and 'arguments' in marker
    return marker if ours else None


def make_data_set(out: Path, settings: drawing.SceneSettings,
                  counts: Dict[str, int], masks: str, overwrite: bool,
                  background: str = 'textures', jobs: int = 1) -> bool:
    """Make the data set unless it is there.

    Args:
        out: Folder to make. It appears only when it is complete.
        settings: Settings of the scenes.
        counts: Number of scenes of each split.
        masks: Kind of segmentation, ``polygon`` or ``rle``.
        overwrite: Replace a data set that was made with other arguments.
        background: ``textures`` or ``photos``.
        jobs: Processes that draw; what is drawn does not depend on them.

    Returns:
        Whether it was made; False if it was there, with the same arguments.

    Raises:
        FileExistsError: ``out`` is there and may not be replaced.
        ImportError: scikit-learn, for RLE pycocotools or for photographs
            scikit-image is missing.
        OSError: A file cannot be written.
        ValueError: A setting is out of range.
    """
    _check_arguments(settings, counts)
    if jobs < 1:
        raise ValueError(f'--jobs must be 1 or more, got {jobs}')
    arguments = dict(
        asdict(settings), num_scenes=counts, masks=masks, format=FORMAT)
    if not settings.depth:  # as data sets say that were made without it
        del arguments['depth']
    if background != 'textures':
        arguments['background'] = background
    arguments = json.loads(json.dumps(arguments))
    marker = _read_marker(out)
    if marker is not None and marker['arguments'] == arguments:
        return False
    if out.exists() and marker is None:
        raise FileExistsError(f'{out} exists without a {MARKER}, so not even '
                              '--overwrite replaces it; choose another folder')
    if out.exists() and not overwrite:
        raise FileExistsError(f'{out} was made with other arguments; add '
                              '--overwrite to replace it')
    if masks == 'rle':
        need('pycocotools.mask', 'pycocotools')
    source = need('sklearn.datasets', 'scikit-learn').load_digits()
    samples = split_samples(source.target)
    styles = dict.fromkeys(SPLITS, drawing.Textures())
    if background == 'photos':
        styles = photos.load_photos()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
            prefix=f'.{out.name}-', dir=out.parent) as work:
        new = Path(work, 'new')
        for split, part in samples.items():
            writing.write_split(
                writing.Split(new, split, SPLITS.index(split),
                              source.images[part], source.target[part],
                              settings, masks, styles[split]), counts[split],
                jobs)
        summary = dict(
            arguments=arguments,
            classes=CLASSES,
            palette=annotations.PALETTE)
        summary['samples'] = {k: v.tolist() for k, v in samples.items()}
        writing.write_json(new / MARKER, summary)
        _publish(new, out, None if marker is None else Path(work, 'old'))
    return True


def _publish(new: Path, out: Path, old: Optional[Path]) -> None:
    """Rename ``new`` to ``out``, after moving what is there to ``old``."""
    if old is not None:
        os.rename(out, old)
    try:
        os.rename(new, out)
    except BaseException:
        if old is not None:
            os.rename(old, out)
        raise


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command line; exits with code 2 if the request is not good."""
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n')[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add('out', type=Path, metavar='OUT_DIR', help='folder to make')
    span = dict(type=int, nargs=2, metavar=('MIN', 'MAX'))
    sides = dict(span, metavar=('H', 'W'))
    add('--background', choices=tuple(DEFAULTS), default='textures',
        help='photos: digits at the local contrast of photographs of '
        'scikit-learn and scikit-image, among pieces of digits')
    # Without a default of their own: it depends on the background
    span['default'] = sides['default'] = argparse.SUPPRESS
    add('--size', help='px (96 96; photos: 192 192)', **sides)
    add('--num-train', type=int, default=2000, help='training scenes')
    add('--num-val', type=int, default=300, help='validation scenes')
    add('--digits', help='digits per scene (1 2; photos: 2 3)', **span)
    add('--digit-size', help='digit height, px (44 68)', **span)
    add('--clutter', type=float, default=0.3, help='amount, 0 to 1')
    add('--seed', type=int, default=0, help='seed of all scenes')
    add('--masks', choices=('polygon', 'rle'), default='polygon', help='COCO')
    add('--depth', action='store_true',
        help='write depth maps; larger digits are nearer, and cover others')
    add('--jobs', type=int, default=1,
        help='processes that draw; the scenes do not depend on it')
    add('--overwrite', action='store_true', help='replace an older data set')
    args = parser.parse_args(argv)
    args = argparse.Namespace(**{**DEFAULTS[args.background], **vars(args)})
    settings = drawing.SceneSettings(*args.size, tuple(args.digits),
                                     tuple(args.digit_size), args.clutter,
                                     args.seed, args.depth)
    try:
        made = make_data_set(
            args.out.resolve(), settings,
            dict(train=args.num_train, val=args.num_val), args.masks,
            args.overwrite, args.background, args.jobs)
    except (ValueError, ImportError, OSError) as error:
        parser.error(str(error))
    print(f'digits scenes: {args.num_train} train, {args.num_val} val, '
          f'{args.size[0]}x{args.size[1]} -> {args.out}' +
          ('' if made else ' (already there)'))
    if args.background == 'photos':
        print(foreground_stats.describe(
            foreground_stats.measure(args.out, PATCH)))


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    main()
