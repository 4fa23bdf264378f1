# Copyright (c) mmcropr contributors.
from typing import Any, Tuple

from mmdet.models.data_preprocessors import DetDataPreprocessor
from torch import Tensor
from torch.nn import functional as F

from mmcropr.registry import MODELS


@MODELS.register_module()
class FixedSizeDetDataPreprocessor(DetDataPreprocessor):
    """That of mmdet, for models that see images of one size: images are
    padded with black at the bottom and on the right, before they are
    normalised; mmdet pads behind that.

    Args:
        size: Height and width of all images in pixels.
        kwargs: See mmdet's ``DetDataPreprocessor``.
    """

    pads_black = True  # so the padding is normalised, too

    def __init__(self, size: Tuple[int, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = tuple(size)

    def _padded(self, image: Tensor) -> Tensor:
        """An image (C, H, W), or several (B, C, H, W), of the fixed size.

        Raises:
            ValueError: If it is larger.
        """
        missing = [a - b for a, b in zip(self.size, image.shape[-2:])]
        if min(missing) < 0:
            raise ValueError(
                f'an image of {image.shape[-2]} x {image.shape[-1]} px is '
                f'larger than size={self.size} of the data preprocessor: let '
                'the pipeline resize it to that, with keep_ratio=True.')
        return F.pad(image, (0, missing[1], 0, missing[0]))

    def forward(self, data: dict, training: bool = False) -> dict:
        """Pad, then what mmdet's does."""
        images = data['inputs']
        images = self._padded(images) if isinstance(images, Tensor) else [
            self._padded(image) for image in images]
        return super().forward({**data, 'inputs': images}, training)
