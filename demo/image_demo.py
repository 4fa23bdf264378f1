# Copyright (c) mmcropr contributors.
"""What a trained model sees in pictures of one's own: its prediction, what it
pruned, and the time it took beside the same model without pruning."""
import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional, Tuple

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from mmengine.utils import ProgressBar

from mmcropr.utils.files import staged
from mmcropr.utils.logs import one_line_errors
from mmcropr.utils.rates import add_tpr, backbone_of, with_tpr
from mmcropr.visualization import (Fates, Picture, Predictor, block_colours,
                                   block_handles, check_out, list_images,
                                   removal_colours, save_figure)

sys.path.insert(0, str(Path(__file__).parent))
from small_models import names, resolve  # noqa: E402

VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm')
CLASSES, MODULES = 12, 5  # in legends, at most


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=' '.join(__doc__.split()))
    parser.add_argument('source', type=Path, metavar='IMAGE|FOLDER|VIDEO')
    parser.add_argument(
        'config', help='of the training, or without a checkpoint the name of '
        f'a model in demo/models: {", ".join(names()) or "none is there"}')
    parser.add_argument('checkpoint', nargs='?', help='of the training')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR')
    add_tpr(parser)
    parser.add_argument(
        '--runs', type=int, default=3, help='that are timed per image, of '
        'which the median counts (video: 1)')
    parser.add_argument('--device', default='cpu')
    parser.add_argument(
        '--trust-checkpoint', action='store_true',
        help='load checkpoints that can run code, from a source you trust')
    parser.add_argument(
        '--debug', action='store_true', help='show where an error is from')
    args = parser.parse_args()
    if args.runs < 1:
        parser.error('--runs must be 1 or more')
    return args


class Pair(NamedTuple):
    """Pictures of an image by the model with pruning and without, and their
    seconds."""
    pruned: Picture
    plain: Picture
    seconds: Tuple[float, float]

    @property
    def ratio(self) -> float:
        """How many times as long it takes without pruning."""
        return self.seconds[1] / self.seconds[0]


def run_both(pruned: Predictor, plain: Predictor, path: Path,
             runs: int) -> Pair:
    """Pictures of both models, and their median seconds of runs in turns."""
    data = pruned.load(path)
    pictures = pruned.predict(data), plain.predict(data)
    seconds = [(pruned.seconds(data), plain.seconds(data))
               for _ in range(runs)]
    return Pair(*pictures, tuple(map(statistics.median, zip(*seconds))))


def draw(name: str, pair: Pair, pruned: Predictor,
         plain: Predictor) -> Figure:
    """Prediction with the reducer and without, with their times, and what
    became of the patches; below, what colours mean: classes of a segmentor,
    the block that a patch left after. Of one size for all images."""
    picture, methods = pair.pruned, ' + '.join(dict.fromkeys(
        type(reducer).__name__ for reducer in pruned.backbone.reducers))
    panels = [(pruned.draw(picture),
               f'{methods}: {1000 * pair.seconds[0]:.0f} ms'),
              (plain.draw(pair.plain),
               f'without: {1000 * pair.seconds[1]:.0f} ms, '
               f'{pair.ratio:.2f} x as long')]
    legends = [[Patch(facecolor=colour, label=label) for label, colour in
                plain.class_colours(picture, pair.plain).items()][:CLASSES]]
    if len(picture.fates) == 1:
        fates, = picture.fates
        panels.append((removal_colours(picture.image, fates),
                       f'{fates.counts[-1]} of {fates.slots.shape[1]} tokens '
                       'left'))
        legends.append(what_became(fates))
    figure = Figure(figsize=(3.6 * len(panels), 4.7), layout='constrained')
    figure.suptitle(name)
    views, below = figure.subfigures(2, 1, height_ratios=[4, .7])
    for axes, (view, title) in zip(
            views.subplots(1, len(panels), squeeze=False)[0], panels):
        axes.imshow(view)
        axes.set_title(title, fontsize='small')
        axes.axis('off')
    for handles, place, columns in zip(legends, ('upper left', 'upper right'),
                                       (4, 2)):
        if handles:
            below.legend(handles=handles, loc=place, ncols=columns,
                         frameon=False, fontsize='small')
    return figure


def what_became(fates: Fates) -> List[Patch]:
    """Of a legend of the last panel."""
    stays = Patch(facecolor='none', edgecolor='0.6', label='kept: the image')
    left = np.unique(fates.removed[fates.removed >= 0])
    if fates.merges:
        stays.set_label('merged: the colour of its token')
        gone = [Patch(facecolor='0.2', label='darkened: pruned')]
        return [stays, *(gone if len(left) else [])]
    colours = block_colours(fates)
    shown = {fates.blocks[n]: colours[fates.blocks[n]] for n in left}
    if len(shown) > MODULES:  # some of them, as steps of a scale
        steps = np.linspace(0, len(shown) - 1, MODULES).round().astype(int)
        shown = {block: shown[block] for block in np.array([*shown])[steps]}
    return [stays, *block_handles(shown, 'pruned after block')]


def images(args: argparse.Namespace, pruned: Predictor,
           plain: Predictor) -> Tuple[List[float], List[str]]:
    """Draw all images; how many times as long the model without pruning
    took, and what could not be read."""
    ratios, failed = [], []
    paths = list_images(args.source)
    check_out(args.out, paths)
    bar = ProgressBar(len(paths))
    for path in paths:
        try:
            pair = run_both(pruned, plain, path, args.runs)
            save_figure(draw(path.stem, pair, pruned, plain),
                        args.out / f'{path.stem}.png')
        except (ValueError, OSError) as error:
            failed.append(f'{path.name}: {error}')
        else:
            ratios.append(pair.ratio)
        bar.update()
    return ratios, failed


def frames(path: Path) -> Iterator[np.ndarray]:
    """Frames of a video, (H, W, 3), uint8, BGR."""
    video = cv2.VideoCapture(str(path))
    try:
        while True:
            there, frame = video.read()
            if not there:
                return
            yield frame
    finally:
        video.release()


def video(args: argparse.Namespace, pruned: Predictor,
          plain: Predictor) -> List[float]:
    """Draw every frame of a video into another one.

    Raises:
        ValueError: If it has no frames.
    """
    source = cv2.VideoCapture(str(args.source))
    rate = source.get(cv2.CAP_PROP_FPS) or 25.
    source.release()
    ratios: List[float] = []
    out, writer = args.out / f'{args.source.stem}.mp4', None
    bar = ProgressBar()
    with tempfile.TemporaryDirectory() as folder, staged(out) as part:
        try:
            for number, frame in enumerate(frames(args.source)):
                path = Path(folder, f'{args.source.stem} {number}.png')
                cv2.imwrite(str(path), frame)
                pair = run_both(pruned, plain, path, 1)
                ratios.append(pair.ratio)
                view = pixels(draw(path.stem, pair, pruned, plain))
                if writer is None:
                    writer = cv2.VideoWriter(
                        str(part), cv2.VideoWriter_fourcc(*'mp4v'), rate,
                        view.shape[1::-1])
                writer.write(view)
                path.unlink()
                bar.update()
        finally:
            if writer is not None:
                writer.release()
        if writer is None:
            raise ValueError(f'{args.source} has no frames that can be read')
    return ratios


def pixels(figure: Figure) -> np.ndarray:
    """A figure as (H, W, 3), uint8, BGR, of even height and width."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    view = np.asarray(canvas.buffer_rgba())[..., 2::-1]
    height, width = view.shape[:2]
    return np.ascontiguousarray(view[:height // 2 * 2, :width // 2 * 2])


def main() -> None:
    args = parse_args()
    with one_line_errors(args.debug):
        cfg, checkpoint = resolve(args.config, args.checkpoint)
        if args.tpr is not None:
            cfg = with_tpr(cfg, args.tpr)
        if not args.source.exists():
            raise ValueError(f'there is no {args.source}')
        if not backbone_of(cfg).get('reducer'):
            raise ValueError(f'the backbone of {args.config} has no reducer: '
                             'there is no pruning to show.')
        pruned = Predictor(cfg, checkpoint, args.device,
                           args.trust_checkpoint)
        plain = pruned.without_pruning()
        failed: List[str] = []
        if args.source.suffix.lower() in VIDEOS:
            ratios = video(args, pruned, plain)
        else:
            ratios, failed = images(args, pruned, plain)
        _report(args, ratios, failed)


def _report(args: argparse.Namespace, ratios: List[float],
            failed: Optional[List[str]] = None) -> None:
    print()
    if ratios:
        print(f'{len(ratios)} images in {args.out}; without pruning they take '
              f'{statistics.median(ratios):.2f} times as long (median, whole '
              f'model on {args.device}).')
    for line in failed or []:
        print(f'left out: {line}')
    if failed:
        raise SystemExit(1)


if __name__ == '__main__':
    main()
