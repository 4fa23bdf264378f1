# Copyright (c) mmcropr contributors.
"""Pictures of what was pruned, drawn by matplotlib. The colours are told
apart by the colour-blind, too: cividis from early to late."""
from pathlib import Path
from typing import Dict, List, Optional

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mmcropr.utils.files import written_whole

from .fates import Fates

KEPT = '#D55E00'  # vermilion, which is no colour of cividis
INCH = 2.4  # side of a picture


def _crop(values: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Padding to whole patches cut off."""
    return values[:image.shape[0], :image.shape[1]]


def module_colours(number: int) -> np.ndarray:
    """(number, 3), from early to late."""
    steps = np.linspace(0, 1, max(number, 2))[:number]
    return matplotlib.colormaps['cividis'](steps)[:, :3]


def block_colours(*fates: Fates) -> Dict[int, np.ndarray]:
    """Colours (3, ) by the block that a module follows, from early to late,
    of all the modules there are."""
    blocks = sorted({block for one in fates for block in one.blocks})
    return dict(zip(blocks, module_colours(len(blocks))))


def block_handles(colours: Dict[int, np.ndarray],
                  what: str = 'after block') -> List[Patch]:
    """Of a legend that says what colour is which block's."""
    return [Patch(facecolor=colour, label=f'{what} {block}')
            for block, colour in colours.items()]


def removal_colours(image: np.ndarray,
                    fates: Fates,
                    colours: Optional[Dict[int, np.ndarray]] = None
                    ) -> np.ndarray:
    """When every patch left: its colour is the block's, kept patches show the
    image; of merged ones the image with the colours of their tokens, (H, W, 3)
    of 0 to 1.

    Args:
        image: What the model saw, (H, W, 3), uint8, RGB.
        fates: Of its patches.
        colours: Of the blocks; None for those of these fates alone.
    """
    if fates.merges:
        return (merge_colours(image, fates) + image / 255) / 2
    removed = _crop(fates.pixels(fates.removed), image)
    palette = _palette(fates, colours or block_colours(fates))
    return np.where((removed < 0)[..., None], image / 255, palette[removed])


def _palette(fates: Fates, colours: Dict[int, np.ndarray]) -> np.ndarray:
    """Of its modules, (n, 3)."""
    return np.stack([colours[block] for block in fates.blocks])


def merge_colours(image: np.ndarray, fates: Fates,
                  module: int = -1) -> np.ndarray:
    """Patches in the colour of the token they share after a module, the mean
    of the image over it; those that left are black, (H, W, 3) of 0 to 1."""
    slots = _crop(fates.pixels(fates.slots[module]), image)
    flat, pixels = slots.reshape(-1) + 1, image.reshape(-1, 3) / 255
    count = np.bincount(flat).clip(1)
    means = np.stack([
        np.bincount(flat, weights=pixels[:, channel]) / count
        for channel in range(3)], axis=1)
    means[0] = 0
    return means[flat].reshape(image.shape)


def survivors(image: np.ndarray, fates: Fates, module: int) -> np.ndarray:
    """The image with a veil over the patches that have left by a module, (H,
    W, 3) of 0 to 1; of merged ones their tokens' colours."""
    if fates.merges:
        return merge_colours(image, fates, module)
    stays = _crop(fates.pixels(fates.slots[module] >= 0), image)
    return np.where(stays[..., None], image / 255, 0.85 + 0.1 * image / 255)


def removal_figure(image: np.ndarray,
                   methods: Dict[str, Fates],
                   pictures: Optional[Dict[str, np.ndarray]] = None
                   ) -> Figure:
    """A row per method: its prediction, when every patch left, on the image
    and alone, or for a method that merges the tokens.

    Args:
        image: What the model saw, (H, W, 3), uint8, RGB.
        methods: Fates by name.
        pictures: Predictions by name, (H', W', 3), uint8, RGB; a name that
            is no method, such as 'ground truth', gets a place in every row.
    """
    pictures = pictures or {}
    common = [name for name in pictures if name not in methods]
    width = 3 + len(common) + any(name in methods for name in pictures)
    figure = Figure(figsize=(INCH * width, 0.7 + INCH * 1.1 * len(methods)),
                    layout='constrained')
    rows = figure.subplots(len(methods), width, squeeze=False)
    colours = block_colours(*methods.values())
    for row, (name, fates) in zip(rows, methods.items()):
        panels = iter(row)
        _show(next(panels), image, 'image')
        for other in common:
            _show(next(panels), pictures[other], other)
        if width > 3 + len(common):
            _show(next(panels), pictures.get(name, image), 'prediction')
        _show(next(panels), removal_colours(image, fates, colours), name)
        alone, title = _alone(image, fates, colours)
        _show(next(panels), alone, title)
    legend = [Patch(facecolor=KEPT, label='kept'), *block_handles(colours)]
    figure.legend(handles=legend, loc='outside lower center', frameon=False,
                  ncols=min(len(legend), 2 * width), fontsize='small')
    return figure


def _alone(image: np.ndarray, fates: Fates,
           colours: Dict[int, np.ndarray]) -> tuple:
    """The map without the image, and its title."""
    counts = f'{fates.counts[-1]} of {fates.slots.shape[1]} tokens left'
    if fates.merges:
        return merge_colours(image, fates), counts
    kept = np.array(matplotlib.colors.to_rgb(KEPT))
    palette = np.concatenate([_palette(fates, colours), [kept]])
    return palette[_crop(fates.pixels(fates.removed), image)], counts


def strip_figure(image: np.ndarray, methods: Dict[str, Fates]) -> Figure:
    """A row per method: what is left after each of its modules.

    Args:
        image: What the model saw, (H, W, 3), uint8, RGB.
        methods: Fates by name.
    """
    width = 1 + max(len(fates.blocks) for fates in methods.values())
    figure = Figure(
        figsize=(INCH * 0.7 * width, 0.3 + INCH * 0.8 * len(methods)),
        layout='constrained')
    rows = figure.subplots(len(methods), width, squeeze=False)
    for row, (name, fates) in zip(rows, methods.items()):
        for panel in row:
            panel.axis('off')
        _show(row[0], image, name)
        for number, block in enumerate(fates.blocks):
            _show(row[number + 1], survivors(image, fates, number),
                  f'block {block}: {fates.counts[number]}')
    return figure


def _show(panel: matplotlib.axes.Axes, picture: np.ndarray,
          title: str) -> None:
    panel.imshow(picture, interpolation='nearest')
    panel.set_title(title, fontsize='small')
    panel.axis('off')


def save_figure(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure as PNG (whole or not at all)."""
    with written_whole(path) as part:
        figure.savefig(part, dpi=dpi, format='png')
