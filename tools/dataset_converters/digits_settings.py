# Copyright (c) mmcropr contributors.
"""What a scene is made by, and what it consists of."""
from dataclasses import dataclass
from typing import List, Tuple

import numpy as np


@dataclass(frozen=True)
class SceneSettings:
    """What all scenes of a data set have in common.

    Args:
        height: Image height, px.
        width: Image width, px.
        digits: Least and most digits per scene.
        digit_size: Least and greatest side of a digit, px, before rotation.
        clutter: Amount of background clutter, from 0 (none) to 1.
        seed: Seed that all scenes derive from.
        depth: Whether larger digits cover smaller ones.
    """
    height: int = 96
    width: int = 96
    digits: Tuple[int, int] = (1, 2)
    digit_size: Tuple[int, int] = (44, 68)
    clutter: float = 0.3
    seed: int = 0
    depth: bool = False


@dataclass
class Scene:
    """One drawn scene.

    Args:
        image: RGB image, (H, W, 3) uint8; float32 while it is drawn.
        owner: Digit at every pixel, (H, W) int64: 0 for none, k + 1 for k.
        classes: Class 0..9 of each digit, in drawing order.
        sizes: Side of each digit, px, before rotation.
        drawn: Whether clutter or a digit was at a pixel, (H, W) bool.
    """
    image: np.ndarray
    owner: np.ndarray
    classes: List[int]
    sizes: List[float]
    drawn: np.ndarray
