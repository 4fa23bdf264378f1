# Copyright (c) mmcropr contributors.
"""Draw scenes of handwritten digits on textured, cluttered backgrounds."""
from typing import Any, List, Optional, Tuple

import cv2
import numpy as np
from digits_settings import Scene, SceneSettings

SOURCE_SIDE = 8  # px, the side of scikit-learn's digits
MARGIN = 3  # source px around a digit, so that rotation cuts nothing off
MIN_VISIBLE = 0.85  # of a digit's pixels, once all digits are drawn
PLACE_TRIES = 40
DARKEST_INK = 130  # of 255: like chalk, everything drawn is lighter
ITEMS_PER_CELL = 2.0  # clutter items per digit-sized square, at clutter 1
CONTRAST = 70.0  # of 255, wanted between a colour and most of what it touches
# Luminance counts most for what the eye can read; rows: Y, ~R-Y, ~B-Y.
TO_LUMA = np.array([[.30, .59, .11], [.35, -.30, -.05], [-.15, -.30, .45]],
                   np.float32)


def draw_background(rng: np.random.Generator, height: int,
                    width: int) -> np.ndarray:
    """Draw a colour gradient with noise of several scales.

    Returns:
        RGB canvas, (H, W, 3) float32 in 0..255.
    """
    angle = rng.uniform(0, 2 * np.pi)
    rows = np.linspace(-.5, .5, height)[:, None]
    cols = np.linspace(-.5, .5, width)[None]
    ramp = np.sin(angle) * rows + np.cos(angle) * cols
    canvas = rng.uniform(25, 100, 3) + ramp[..., None] * rng.normal(0, 40, 3)
    for octave in range(5):
        unit = min(height, width) / 2**(octave + 1)
        cells = (max(2, round(height / unit)), max(2, round(width / unit)), 3)
        # Grey noise shared by the channels keeps the texture from rainbows.
        noise = rng.normal(0, .6, cells) + rng.normal(0, 1, (*cells[:2], 1))
        canvas += 22 / 1.5**octave * cv2.resize(
            noise, (width, height), interpolation=cv2.INTER_CUBIC)
    canvas += 3 * rng.standard_normal(canvas.shape, np.float32)
    return canvas.clip(0, DARKEST_INK).astype(np.float32)


def digit_alpha(rng: np.random.Generator, digit: np.ndarray,
                size: float) -> np.ndarray:
    """Enlarge a digit smoothly, a little rotated, sheared and stretched.

    Args:
        rng: Source of the deformation.
        digit: Source digit, (8, 8), values 0..16.
        size: Side of the source square after enlarging, px.

    Returns:
        Opacity cropped to the ink, (h, w) float32 in 0..1; the digit's mask
        is where it is at least 0.5.
    """
    side = round((SOURCE_SIDE + 2 * MARGIN) * size / SOURCE_SIDE)
    padded = np.pad(digit.astype(np.float32) / 16, MARGIN)
    big = cv2.resize(padded, (side, side), interpolation=cv2.INTER_CUBIC)
    angle = np.deg2rad(rng.uniform(-15, 15))
    shear, stretch = rng.uniform(-.15, .15), rng.uniform(.88, 1.12)
    turn = np.array([[np.cos(angle), -np.sin(angle)],
                     [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[stretch, shear], [0, 1 / stretch]])
    centre = np.full(2, (side - 1) / 2)
    shift = centre - matrix @ centre
    warped = cv2.warpAffine(big, np.column_stack([matrix, shift]),
                            (side, side))
    # Rather thin ink: with more, the thick ones and eights become blobs.
    return _crop(((warped - .3) / .3).clip(0, 1))


def _crop(alpha: np.ndarray) -> np.ndarray:
    # An empty fragment comes out empty, and is then not pasted.
    left, top, width, height = cv2.boundingRect((alpha > 0).astype(np.uint8))
    return alpha[top:top + height, left:left + width]


def _fragment(rng: np.random.Generator, images: np.ndarray,
              size: float) -> np.ndarray:
    """Opacity of turned quarters of digits, which show no digit."""
    half = max(2, int(size) // 2)
    rows = []
    for _ in range(rng.integers(1, 3)):
        alpha = digit_alpha(rng, images[rng.integers(len(images))], size)
        alpha = cv2.resize(alpha, (2 * half, 2 * half))
        corners = rng.integers(0, 2, (2, 2)) * half
        # Odd turns only: unturned quarters may make up a digit again.
        rows.append(
            np.hstack([
                np.rot90(alpha[top:top + half, left:left + half],
                         2 * rng.integers(0, 2) + 1) for top, left in corners
            ]))
    return np.pad(np.vstack(rows), 3)


def _stroke(rng: np.random.Generator, alpha: np.ndarray, size: float,
            thick: int) -> None:
    # Lying rather than upright: an upright stroke is a digit, a one.
    angle = np.deg2rad(rng.uniform(-50, 50))
    along = np.array([np.cos(angle), np.sin(angle)])
    ends = along * size * rng.uniform(.3, .7)
    bend = along[::-1] * (-1, 1) * size * rng.normal(0, .4)
    t = np.linspace(-1, 1, 17)[:, None]
    points = ends * t + bend * (1 - t**2) + len(alpha) / 2
    cv2.polylines(alpha, [points.round().astype(np.int32)], False, 1, thick)


def _arc(rng: np.random.Generator, alpha: np.ndarray, size: float,
         thick: int) -> None:
    axes = (size * rng.uniform(.2, .6, 2)).astype(int) + 1
    start = int(rng.integers(0, 360))
    # Well short of a closed ring: that is a digit, a zero.
    stop = start + int(rng.integers(60, 200))
    cv2.ellipse(alpha, (len(alpha) // 2, ) * 2, axes.tolist(),
                int(rng.integers(0, 180)), start, stop, 1, thick)


def _rectangle(rng: np.random.Generator, alpha: np.ndarray, size: float,
               thick: int) -> None:
    sides = (size * rng.uniform(.3, 1., 2)).tolist()
    centre = (len(alpha) / 2, ) * 2
    box = cv2.boxPoints((centre, sides, rng.uniform(20, 70)))
    box = box.round().astype(np.int32)
    cv2.polylines(alpha, [box], True, 1, max(1, thick // 2))
    if rng.random() < .5:
        cv2.fillPoly(alpha, [box], 1)


def _blob(rng: np.random.Generator, alpha: np.ndarray, size: float,
          thick: int) -> None:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)[:, None]
    waves = np.sin(np.arange(1, 4) * angles + rng.uniform(0, 6, 3))
    radius = (1 + waves @ rng.normal(0, .2, 3)).clip(.3)[:, None]
    radius = radius * size * rng.uniform(.15, .35)
    points = np.hstack([np.cos(angles), np.sin(angles)]) * radius
    points = (points + len(alpha) / 2).round().astype(np.int32)
    cv2.fillPoly(alpha, [points], 1)


def _clutter_alpha(rng: np.random.Generator, images: np.ndarray,
                   size: float) -> np.ndarray:
    """Opacity of clutter as wide and as soft as strokes of a digit."""
    kind = rng.choice(5, p=[.28, .24, .1, .08, .3])
    if kind == 4:
        alpha = _fragment(rng, images, size * rng.uniform(.6, 1.))
    else:
        alpha = np.zeros((int(2.5 * size), ) * 2, np.float32)
        thick = max(1, round(size * rng.uniform(.08, .22)))
        (_stroke, _arc, _rectangle, _blob)[kind](rng, alpha, size, thick)
    return _crop(cv2.GaussianBlur(alpha, (0, 0), max(.7, size / 35)))


def _pick_colour(rng: np.random.Generator, touched: np.ndarray) -> np.ndarray:
    """RGB colour unlike most of the pixels (N, 3) it covers or touches.

    If none of the candidates has enough contrast, the best one is taken.
    """
    candidates = rng.uniform(DARKEST_INK, 255, (16, 3)).astype(np.float32)
    ours, theirs = candidates @ TO_LUMA.T, touched @ TO_LUMA.T
    contrast = (ours**2).sum(1)[:, None] + (theirs**2).sum(1)[None]
    contrast -= 2 * ours @ theirs.T
    # Up to a tenth may be alike, or in dense clutter no colour would do.
    rank = len(touched) // 10
    contrast = np.partition(contrast, rank, axis=1)[:, rank]
    good = np.flatnonzero(contrast >= CONTRAST**2)
    return candidates[good[0] if len(good) else contrast.argmax()]


def _paste(rng: np.random.Generator, scene: Scene, alpha: np.ndarray,
           top: int, left: int) -> None:
    """Blend a shape, which may reach over the border, into a scene."""
    place = np.s_[max(0, top):top + len(alpha),
                  max(0, left):left + alpha.shape[1]]
    window, rows, cols = scene.image[place], max(0, -top), max(0, -left)
    alpha = alpha[rows:rows + window.shape[0], cols:cols + window.shape[1]]
    if not alpha.any():
        return
    near = cv2.dilate((alpha > .5).astype(np.uint8), np.ones((9, 9)))
    touched = window[near > 0]
    touched = touched[::len(touched) // 200 + 1]
    if len(touched):
        window += alpha[..., None] * (_pick_colour(rng, touched) - window)
    scene.drawn[place] |= alpha >= .5


def _draw_clutter(rng: np.random.Generator, scene: Scene, images: np.ndarray,
                  settings: SceneSettings) -> None:
    """Draw strokes, arcs, rectangles, blobs and scrambled digits."""
    low, high = settings.digit_size
    cells = scene.owner.size / ((low + high) / 2)**2
    for _ in range(round(settings.clutter * ITEMS_PER_CELL * cells)):
        alpha = _clutter_alpha(rng, images, rng.uniform(low, high))
        corner = rng.uniform(0, scene.owner.shape) - np.array(alpha.shape) / 2
        _paste(rng, scene, alpha, int(corner[0]), int(corner[1]))


def _find_place(rng: np.random.Generator, owner: np.ndarray, mask: np.ndarray,
                areas: List[int]) -> Optional[Tuple[int, int]]:
    """Corner for a new digit that leaves the others mostly visible."""
    visible = np.bincount(owner.ravel(), minlength=len(areas) + 1)[1:]
    height, width = mask.shape
    for _ in range(PLACE_TRIES):
        top = int(rng.integers(owner.shape[0] - height + 1))
        left = int(rng.integers(owner.shape[1] - width + 1))
        under = owner[top:top + height, left:left + width][mask]
        hidden = np.bincount(under, minlength=len(areas) + 1)[1:]
        if np.all(visible - hidden >= MIN_VISIBLE * np.array(areas)):
            return top, left
    return None


class Textures:
    """How scenes look: on textures, with clutter. Other styles have its
    methods."""
    background = staticmethod(draw_background)
    clutter = staticmethod(_draw_clutter)
    paste = staticmethod(_paste)
    cover = staticmethod(lambda *args: None)  # nothing lies on the digits


def draw_scene(images: np.ndarray, targets: np.ndarray, split: int, index: int,
               settings: SceneSettings, style: Any = Textures()) -> Scene:
    """Compose one scene, with at least one digit; digits for which no place
    was found are left out.

    Args:
        images: Digits that may be used, (S, 8, 8), values 0..16.
        targets: Their classes, (S,), 0..9.
        split: Number of the split; scenes of two splits differ.
        index: Number of the scene in its split.
        settings: Image size, number and size of digits, clutter, seed.
        style: Draws background, clutter and digits.
    """
    # Own streams: other clutter leaves the digits and their places alone.
    layout, ground, clutter, ink = (
        np.random.default_rng([settings.seed, split, index, stream])
        for stream in range(4))
    canvas = style.background(ground, settings.height, settings.width)
    owner = np.zeros(canvas.shape[:2], np.int64)
    scene = Scene(canvas, owner, [], [], owner > 0)
    style.clutter(clutter, scene, images, settings)
    areas: List[int] = []
    number = int(layout.integers(*settings.digits, endpoint=True))
    sizes = np.sort(layout.uniform(*settings.digit_size, number)) if (
        settings.depth) else [None] * number
    for size in sizes:
        pick = int(layout.integers(len(images)))
        size = size or layout.uniform(*settings.digit_size)
        alpha = digit_alpha(layout, images[pick], size)
        # A digit about as large as the image may outgrow it once rotated.
        alpha = _shrink_to(alpha, settings.height, settings.width)
        mask = alpha >= .5
        place = _find_place(layout, owner, mask, areas)
        if place is not None:
            style.paste(ink, scene, alpha, *place)
            scene.classes.append(int(targets[pick]))
            scene.sizes.append(size)
            areas.append(int(mask.sum()))
            corner = owner[place[0]:, place[1]:]
            corner[:mask.shape[0], :mask.shape[1]][mask] = len(areas)
    style.cover(ink, scene, images, settings)
    scene.image = canvas.round().clip(0, 255).astype(np.uint8)
    return scene


def _shrink_to(alpha: np.ndarray, height: int, width: int) -> np.ndarray:
    scale = min(1, height / alpha.shape[0], width / alpha.shape[1])
    sides = [max(1, int(side * scale)) for side in alpha.shape[::-1]]
    return cv2.resize(alpha, sides, interpolation=cv2.INTER_AREA)
