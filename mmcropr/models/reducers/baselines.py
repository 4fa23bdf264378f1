# Copyright (c) mmcropr contributors.
"""Selectors without learned parameters (Token Cropr, CVPR 2025)."""
import torch
from torch import Tensor
from torch.nn import functional as F

from mmcropr.registry import MODELS
from mmcropr.structures import TokenState

from .base import TopKPruner


def class_attention(state: TokenState) -> Tensor:
    """The class token's attention to each patch in the block just run, mean
    over heads, (B, K)."""
    return state.attention.of_class_token().mean(1)


@MODELS.register_module()
class Random(TopKPruner):
    """Keep a uniform sample of the patches, drawn anew by every module and
    for every image. Takes numbers from torch's global generator, at test time
    too: set ``randomness=dict(seed=...)`` to repeat a run."""

    draws = True

    def score(self, state: TokenState) -> Tensor:
        return torch.rand(
            state.x.shape[0],
            state.num_current,
            device=state.x.device)


@MODELS.register_module()
class Variance(TopKPruner):
    """Keep the patches whose pixels vary most (after Minderer et al., Scaling
    Open-Vocabulary Object Detection, NeurIPS 2023): variance over the pixels
    of a patch, mean over the channels, so a patch of any one colour has 0."""

    def score(self, state: TokenState) -> Tensor:
        if 'variance' not in state.cache:
            state.cache['variance'] = self._variance(state)
        return state.cache['variance'].gather(1, state.raster_index())

    @staticmethod
    def _variance(state: TokenState) -> Tensor:
        """(B, N) of the image that was embedded."""
        (h, w), (height, width) = state.grid, state.image_size
        image = state.image.detach().float()
        # The edge of zero padding would look like texture: repeat the border.
        pad = (0, image.shape[3] - width, 0, image.shape[2] - height)
        image = F.pad(image[..., :height, :width], pad, mode='replicate')
        pixels = image.unflatten(3, (w, -1)).unflatten(2, (h, -1))
        return pixels.var(dim=(3, 5), unbiased=False).mean(1).flatten(1)


@MODELS.register_module()
class AttnTopK(TopKPruner):
    """Keep the patches that the class token attends to most in the block just
    run, mean over heads. Needs a model with a class token."""

    needs_attention = needs_class_token = True

    def score(self, state: TokenState) -> Tensor:
        return class_attention(state)


@MODELS.register_module()
class TopK(AttnTopK):
    """:class:`AttnTopK` inside the block, between its attention and its MLP,
    which so sees the patches that stay (the Top-K baseline of Haurum et al.,
    Which Tokens to Use?, ICCV Workshops 2023)."""

    stage = 'attention'
