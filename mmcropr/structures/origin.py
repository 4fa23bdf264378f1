# Copyright (c) mmcropr contributors.
from dataclasses import dataclass
from typing import Any, Callable, Optional, Tuple

from torch import Tensor


@dataclass(eq=False, repr=False)
class Origin:
    """What a token sequence was made of; it stays as it is.

    Args:
        grid: Patches per column and row (h, w).
        num_prefix: P.
        image: The image as embedded (B, C, H, W), padded to whole patches.
        image_size: Height and width before that padding, in pixels.
        has_class_token: Whether the first prefix token is a class token.
        rope: Rotary table of the trunk in raster order, whose last but one
            axis has length N; None without rotary embeddings.
        fuses: Whether all tokens shall be put back before the first of the
            remaining blocks (Last Layer Fusion).
        rest: Each runs one of the blocks that the backbone leaves to a neck
            or head over the current tokens, in order: by default the last
            block alone.
        norm: The trunk's final norm.
    """
    grid: Tuple[int, int]
    num_prefix: int
    image: Tensor
    image_size: Tuple[int, int]
    has_class_token: bool = True
    rope: Optional[Tensor] = None
    fuses: bool = True
    rest: Tuple[Callable[[Any], Any], ...] = ()
    norm: Optional[Callable[[Tensor], Tensor]] = None
