# Copyright (c) mmcropr contributors.
"""What becomes of every patch of an image, module by module."""
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from mmcropr.models.backbones import CroprViT
from mmcropr.structures import TokenState


@dataclass
class Fates:
    """Of the N = h * w patches of one image.

    Args:
        grid: Patches per column and row (h, w).
        patch: Height and width of a patch in pixels.
        blocks: The block that each of the n modules follows.
        slots: Which token every patch is in after each module, -1 if it has
            left, (n, N) int.
        scores: Score of every patch at each module, as the method gives it,
            nan where there is none, (n, N) float.
    """
    grid: Tuple[int, int]
    patch: Tuple[int, int]
    blocks: List[int]
    slots: np.ndarray
    scores: np.ndarray

    @property
    def removed(self) -> np.ndarray:
        """Module at which every patch left, -1 where it stayed, (h, w)."""
        left = self.slots < 0
        first = np.where(left.any(0), left.argmax(0), -1)
        return first.reshape(self.grid)

    @property
    def merges(self) -> bool:
        """Whether patches share tokens."""
        last = self.slots[-1][self.slots[-1] >= 0]
        return len(np.unique(last)) < len(last)

    @property
    def counts(self) -> List[int]:
        """Tokens of patches after each module."""
        return [len(np.unique(row[row >= 0])) for row in self.slots]

    def pixels(self, values: np.ndarray) -> np.ndarray:
        """Values per patch (N, ) or (h, w) -> per pixel (H, W)."""
        values = values.reshape(self.grid)
        return values.repeat(self.patch[0], 0).repeat(self.patch[1], 1)


class _Recorder:
    """Collects the fates of one forward pass after the other."""

    def __init__(self, backbone: CroprViT, found: List[List[Fates]]) -> None:
        self.backbone, self.found = backbone, found
        self.scores: Dict[int, Tensor] = {}
        self.slots: List[Tensor] = []

    def start(self, *args: Any) -> None:
        self.scores, self.slots = {}, []

    def score(self, original: Any, state: TokenState) -> Tensor:
        """Stands for a reducer's ``score``."""
        scores = original(state)
        full = scores.new_full((scores.shape[0], state.num_patches),
                               torch.nan, dtype=torch.float32)
        self.scores[state.module] = full.scatter(
            1, state.raster_index(), scores.detach().float())
        return scores

    def reduce(self, module: nn.Module, args: Any, state: TokenState) -> None:
        self.slots.append(state.trace()[0])

    def finish(self, module: CroprViT, args: Any, output: Any) -> None:
        state: TokenState = getattr(output, 'state', output)
        if not self.slots:
            return
        slots = torch.stack(self.slots, dim=1).cpu().numpy()
        nothing = torch.full_like(self.slots[0], 0).float() * torch.nan
        scores = torch.stack([
            self.scores.get(number, nothing)
            for number in range(len(self.slots))], dim=1).cpu().numpy()
        self.found.append([
            Fates(state.grid, module.trunk.patch_size,
                  list(module.schedule.modules), *both)
            for both in zip(slots, scores)])


@contextmanager
def record_fates(backbone: CroprViT) -> Iterator[List[List[Fates]]]:
    """A list that gets, for every forward pass of a backbone within the
    block, the fates of the patches of every image of the batch. A backbone
    without reducers adds nothing."""
    found: List[List[Fates]] = []
    recorder = _Recorder(backbone, found)
    handles = [
        backbone.register_forward_pre_hook(recorder.start),
        backbone.register_forward_hook(recorder.finish)
    ]
    scorers = []
    for reducer in backbone.reducers:
        handles.append(reducer.register_forward_hook(recorder.reduce))
        original: Optional[Any] = getattr(reducer, 'score', None)
        if callable(original) and not isinstance(original, nn.Module):
            reducer.score = partial(recorder.score, original)
            scorers.append(reducer)
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
        for reducer in scorers:
            del reducer.score
