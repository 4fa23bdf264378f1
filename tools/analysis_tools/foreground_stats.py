# Copyright (c) mmcropr contributors.
"""How much a data set gives away without a model: does the variance of a
patch, its place or a constant guess tell what is in an image?"""
import argparse
import json
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Sequence, Tuple

import cv2
import numpy as np

from mmcropr.utils.files import written_whole
from mmcropr.utils.logs import one_line_errors

# A patch shows foreground where this share of its pixels does
ENOUGH = 0.1
# What keeps selection from being trivial
LIMITS = dict(variance_auc=0.60, foreground_patches=0.12, majority_class=0.15)


def patches_of(values: np.ndarray, patch: int) -> np.ndarray:
    """(H, W, C) -> (h, w, patch, patch, C); what is left over at the right
    and at the bottom is cut off."""
    rows, cols = (side // patch for side in values.shape[:2])
    values = values[:rows * patch, :cols * patch]
    values = values.reshape(rows, patch, cols, patch, -1)
    return values.swapaxes(1, 2)


def patch_variance(image: np.ndarray, patch: int) -> np.ndarray:
    """Variance over the pixels of each patch, mean over the channels, as
    ``mmcropr.Variance`` scores it: (H, W, C) -> (h, w)."""
    pixels = patches_of(image.astype(np.float64), patch)
    return pixels.var((2, 3)).mean(-1)


def foreground_of(labels: np.ndarray, patch: int) -> np.ndarray:
    """Patches that show foreground: labels (H, W) of integers, 0 for the
    background and 255 for what is ignored, -> (h, w) of booleans."""
    shows = (labels > 0) & (labels < 255)
    return patches_of(shows[..., None], patch).mean((2, 3, 4)) >= ENOUGH


def pairs(root: Path, split: str,
          count: int) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
    """Images (H, W, 3) and label maps (H, W) of the first scenes."""
    paths = sorted((root / 'labels' / split).glob('*.png'))[:count]
    if not paths:
        raise FileNotFoundError(
            f'no label maps *.png in {root / "labels" / split}; wanted is a '
            'folder that digits_scenes.py has made')
    for path in paths:
        image = cv2.imread(str(root / 'images' / split / path.name))
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if image is None or labels is None or (
                image.shape[:2] != labels.shape):
            raise ValueError(f'{path} and the image of that name in '
                             f'{root / "images" / split} cannot be read, or '
                             'differ in size')
        yield image, labels


def area_under_curve(positive: np.ndarray, scores: np.ndarray) -> float:
    """Chance that a positive has a higher score than another one; 0.5 where
    scores say nothing or all are alike."""
    from sklearn.metrics import roc_auc_score
    if positive.all() or not positive.any():
        return 0.5
    return float(roc_auc_score(positive.ravel(), scores.ravel()))


def _classes(root: Path, split: str) -> np.ndarray:
    """Of all digits, 1 to 10."""
    path = root / f'annotations/instances_{split}.json'
    found = json.loads(path.read_text())['annotations']
    return np.array([digit['category_id'] for digit in found])


def measure(root: Path, patch: int, count: int = 400) -> Dict[str, float]:
    """Statistics of a data set of digits_scenes.py.

    Args:
        root: Its folder.
        patch: Side of a patch in pixels.
        count: Scenes of each split that are read.

    Returns:
        ``variance_auc`` of patch variance for foreground patches, the worst
        of all splits; ``foreground_patches``, their share of all;
        ``place_auc`` of the place of a patch, by what is there in training;
        ``majority_class``, the share of digits that are of the most frequent
        class of training; ``background_miou`` of calling all background, in
        percent over 11 classes.

    Raises:
        OSError: If a file is not there.
        ValueError: If one cannot be read, or sizes do not fit.
    """
    found, variance, size = {}, {}, None
    for split in ('train', 'val'):
        both = []
        for image, labels in pairs(root, split, count):
            size = size or labels.shape
            if labels.shape != size or min(size) < patch:
                raise ValueError(
                    f'images must have one size, of at least a patch of '
                    f'{patch} px; there are {size} and {labels.shape}')
            both.append((foreground_of(labels, patch),
                         patch_variance(image, patch)))
        found[split], variance[split] = map(np.stack, zip(*both))
    place = np.broadcast_to(found['train'].mean(0), found['val'].shape)
    classes = {split: _classes(root, split) for split in found}
    most = np.bincount(classes['train']).argmax()
    ground = np.mean([(labels == 0).mean()
                      for _, labels in pairs(root, 'val', count)])
    return dict(
        variance_auc=max(area_under_curve(found[s], variance[s])
                         for s in found),
        foreground_patches=max(float(f.mean()) for f in found.values()),
        place_auc=area_under_curve(found['val'], place),
        majority_class=float((classes['val'] == most).mean()),
        background_miou=100 * float(ground) / 11)


def describe(stats: Dict[str, float]) -> str:
    """Lines for people: each number, and its limit where there is one."""
    names = dict(
        variance_auc='AUC of patch variance for digit patches',
        foreground_patches='share of digit patches',
        place_auc='AUC of the place of a patch',
        majority_class='share of the most frequent class',
        background_miou='mIoU of background everywhere')
    lines = []
    for key, name in names.items():
        digits = 1 if key == 'background_miou' else 3
        line = f'{name}: {stats[key]:.{digits}f}'
        if key in LIMITS:
            good = stats[key] <= LIMITS[key]
            line += (f' (at most {LIMITS[key]:.2f}'
                     f'{"" if good else ": NOT MET"})')
        lines.append(line)
    return '\n'.join(lines)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Print the statistics of a data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', type=Path, help='folder of the data set')
    parser.add_argument('--patch', type=int, default=8, help='px')
    parser.add_argument('--scenes', type=int, default=400, help='per split')
    parser.add_argument('--json', type=Path, help='write them there')
    parser.add_argument(
        '--debug', action='store_true', help='show where an error is from')
    args = parser.parse_args(argv)
    if args.patch < 1 or args.scenes < 1:
        parser.error('--patch and --scenes must be 1 or more')
    with one_line_errors(args.debug):
        stats: Dict[str, Any] = measure(args.root, args.patch, args.scenes)
        print(describe(stats))
        if args.json:
            with written_whole(args.json) as part:
                part.write_text(json.dumps(stats, indent=2) + '\n')


if __name__ == '__main__':
    main(sys.argv[1:])
