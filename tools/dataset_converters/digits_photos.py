# Copyright (c) mmcropr contributors.
"""Draw digits in photographs, at the local contrast, so that no statistic of
the pixels gives them away.

Pieces of digits that belong to no class lie among them, drawn the same way.
"""
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Tuple

import cv2
import digits_drawing as drawing
import numpy as np
from digits_annotations import need
from digits_settings import Scene, SceneSettings

# Of scikit-learn, then of scikit-image's wheel: none of them is downloaded
TRAIN = ('china.jpg', 'camera.png', 'chelsea.png', 'coffee.png', 'coins.png',
         'grass.png', 'motorcycle_left.png', 'rocket.jpg')
VAL = ('flower.jpg', 'astronaut.png', 'brick.png', 'gravel.png')
OF_SKLEARN = ('china.jpg', 'flower.jpg')
CROP = (.45, 1.)  # side of a crop, of the shorter side of its photograph
PIECES = 3.  # distractors per digit-sized square, at clutter 1
CONTRAST = (1.6, 2.3)  # of ink, in deviations of the brightness around it
LEAST, MOST = 42., 100.  # contrast in any case, of 255
COVERED = .2  # of a digit's pixels, at most
COVERS = .4  # probability that something lies on a digit


class Photos(NamedTuple):
    """Photographs of one split.

    Args:
        images: RGB, (H, W, 3) uint8 each.
    """
    images: Sequence[np.ndarray]

    def background(self, rng: np.random.Generator, height: int,
                   width: int) -> np.ndarray:
        """A crop, turned, mirrored and with other colours, (height, width, 3)
        float32 in 0..255."""
        photo = self.images[rng.integers(len(self.images))]
        photo = np.rot90(photo, rng.integers(4))[::rng.choice([-1, 1])]
        scale = min(photo.shape[0] / height, photo.shape[1] / width)
        scale *= rng.uniform(*CROP)
        rows, cols = int(height * scale), int(width * scale)
        top = int(rng.integers(photo.shape[0] - rows + 1))
        left = int(rng.integers(photo.shape[1] - cols + 1))
        crop = photo[top:top + rows, left:left + cols].astype(np.float32)
        kind = cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC
        return _recolour(rng, cv2.resize(crop, (width, height),
                                         interpolation=kind))

    def clutter(self, rng: np.random.Generator, scene: Scene,
                images: np.ndarray, settings: SceneSettings) -> None:
        """Draw pieces of digits that belong to no class."""
        low, high = settings.digit_size
        cells = scene.owner.size / ((low + high) / 2)**2
        for _ in range(round(settings.clutter * PIECES * cells)):
            alpha = scrambled(rng, images, rng.uniform(low, high))
            corner = rng.uniform(0, scene.owner.shape)
            corner -= np.array(alpha.shape) / 2
            self.paste(rng, scene, alpha, *corner.astype(int).tolist())

    def paste(self, rng: np.random.Generator, scene: Scene,
              alpha: np.ndarray, top: int, left: int) -> None:
        """Blend a shape, (h, w) in 0..1, into a scene at the contrast of the
        pixels around it; it may reach over the border."""
        place = np.s_[max(0, top):max(0, top + len(alpha)),
                      max(0, left):max(0, left + alpha.shape[1])]
        window, rows, cols = scene.image[place], max(0, -top), max(0, -left)
        alpha = alpha[rows:rows + window.shape[0],
                      cols:cols + window.shape[1], None]
        if alpha.max(initial=0) < .5:
            return
        luma = window @ drawing.TO_LUMA[0]
        contrast = luma.std() * rng.uniform(*CONTRAST)
        contrast = np.clip(contrast, LEAST, MOST)
        colour = (window * alpha).sum((0, 1)) / alpha.sum()
        brightness = colour @ drawing.TO_LUMA[0]
        # Dark or light, as either fits between black and white
        room = np.array([brightness, 255 - brightness]) - contrast
        sign = rng.choice([-1, 1], p=room.clip(1) / room.clip(1).sum())
        colour = colour + rng.normal(0, 12, 3) + sign * contrast
        window += rng.uniform(.85, 1.) * alpha * (colour - window)
        scene.drawn[place] |= alpha[..., 0] >= .5

    def cover(self, rng: np.random.Generator, scene: Scene,
              images: np.ndarray, settings: SceneSettings) -> None:
        """Draw small pieces over some digits, which no longer own what is
        under them."""
        for number in range(1, len(scene.classes) + 1):
            if rng.random() > COVERS:
                continue
            size = rng.uniform(.5, .8) * rng.uniform(*settings.digit_size)
            alpha = scrambled(rng, images, size)
            rows, cols = np.nonzero(scene.owner == number)
            pick = rng.integers(len(rows))
            top = int(rows[pick]) - len(alpha) // 2
            left = int(cols[pick]) - alpha.shape[1] // 2
            hidden = _placed(alpha >= .5, scene.owner.shape, top, left)
            owners = scene.owner[hidden]
            if all((owners == n).sum() <= COVERED * (scene.owner == n).sum()
                   for n in np.unique(owners[owners > 0])):
                self.paste(rng, scene, alpha, top, left)
                scene.owner[hidden] = 0


def _placed(mask: np.ndarray, shape: Tuple[int, int], top: int,
            left: int) -> np.ndarray:
    """A mask (h, w) at its place in one of another shape."""
    whole = np.zeros(shape, bool)
    rows, cols = np.nonzero(mask)
    rows, cols = rows + top, cols + left
    good = (rows >= 0) & (rows < shape[0]) & (cols >= 0) & (cols < shape[1])
    whole[rows[good], cols[good]] = True
    return whole


def _recolour(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Other colours, brightness and contrast, the same structure."""
    image = image[..., rng.permutation(3)]
    grey = image.mean(-1, keepdims=True)
    image = grey + rng.uniform(.3, 1.3) * (image - grey)
    image = 255 * (image.clip(0, 255) / 255)**rng.uniform(.7, 1.4)
    image = image.mean() + rng.uniform(.75, 1.15) * (image - image.mean())
    image += rng.normal(0, 10, 3)
    return image.clip(0, 255).astype(np.float32)


def scrambled(rng: np.random.Generator, images: np.ndarray,
              size: float) -> np.ndarray:
    """Opacity of four turned quarters of different digits, which make up
    none, (h, w) float32."""
    half = max(2, int(size) // 2)
    quarters: List[np.ndarray] = []
    for _ in range(4):
        alpha = drawing.digit_alpha(rng, images[rng.integers(len(images))],
                                    size)
        alpha = cv2.resize(alpha, (2 * half, 2 * half))
        top, left = rng.integers(0, 2, 2) * half
        quarter = alpha[top:top + half, left:left + half]
        # Odd turns only: unturned quarters may make up a digit again
        quarters.append(np.rot90(quarter, 2 * rng.integers(0, 2) + 1))
    if rng.random() < .5:  # some have less than a whole square
        quarters[rng.integers(4)][:] = 0
    whole = np.vstack([np.hstack(quarters[:2]), np.hstack(quarters[2:])])
    shape = (max(2, int(len(whole) * rng.uniform(.55, 1.))), len(whole))
    return cv2.resize(whole, shape)


def load_photos() -> Dict[str, Photos]:
    """Photographs of each split.

    Raises:
        ImportError: scikit-learn or scikit-image is missing.
        FileNotFoundError: A photograph is not in this version of them.
    """
    of_sklearn = Path(need('sklearn', 'scikit-learn').__file__)
    of_skimage = Path(need('skimage', 'scikit-image').__file__)
    found = {}
    for split, names in (('train', TRAIN), ('val', VAL)):
        images = []
        for name in names:
            path = (of_sklearn.parent / 'datasets/images' if name in OF_SKLEARN
                    else of_skimage.parent / 'data') / name
            image = cv2.imread(str(path))
            if image is None:
                raise FileNotFoundError(
                    f'no photograph at {path}; it comes with scikit-learn '
                    '1.x and scikit-image 0.22 to 0.26')
            images.append(np.ascontiguousarray(image[..., ::-1]))
        found[split] = Photos(images)
    return found
