# Copyright (c) mmcropr contributors.
"""Does an exported file compute what PyTorch does?"""
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch

from .model import DeployModel
from .watch import drift, watch

TOLERANCE = 1e-3  # of values, relative to the largest
TIE = 1e-4  # of scores, relative to their range
AGREEMENT = 0.999  # of predictions, in float32
Outputs = Dict[str, np.ndarray]


@dataclass
class Report:
    """What a comparison found.

    Args:
        images: How many.
        error: Largest difference of a value, relative to the largest value.
        agreement: Share of equal predictions, None without classes.
        changed: Patches that leave elsewhere, per module, of all images.
        first: Number of the first module that keeps others, not by a tie.
        ties: Modules and images at which scores that are equal within
            rounding were ordered otherwise.
        merged: Images whose patches were merged otherwise.
        half: Whether half precision was compared with float32.
        drift: Per block, see :func:`~mmcropr.deploy.watch.drift`; of half
            precision.
    """
    images: int = 0
    error: float = 0.
    agreement: Optional[float] = None
    changed: List[int] = field(default_factory=list)
    first: Optional[int] = None
    ties: List[Tuple[int, str]] = field(default_factory=list)
    merged: List[str] = field(default_factory=list)
    half: bool = False
    drift: List[float] = field(default_factory=list)

    def failures(self) -> List[str]:
        """Why the file is not equal; empty if it is. Half precision differs
        by its nature: only values that are none count."""
        if not np.isfinite(self.error):
            return ['some values are no numbers']
        if self.half:
            return []
        found = []
        if self.first is not None:
            found.append(f'module {self.first} is the first that keeps other '
                         f'tokens ({self.changed[self.first]} patches)')
        if self.merged:
            found.append('patches are merged otherwise in '
                         f'{", ".join(self.merged[:3])}')
        if self.error > TOLERANCE:
            found.append(f'values differ by {self.error:.1e} of the largest, '
                         f'more than {TOLERANCE:.0e}')
        if self.agreement is not None and self.agreement < AGREEMENT:
            found.append(f'{self.agreement:.2%} of the predictions are equal')
        return found

    def lines(self) -> List[str]:
        """For people."""
        what = 'PyTorch in float32' if self.half else 'PyTorch'
        found = [
            f'{self.images} images; largest difference to {what}: '
            f'{self.error:.1e} of the largest value'
        ]
        if self.agreement is not None:
            found.append(f'equal predictions: {self.agreement:.4%}')
        if self.changed:
            found.append('patches that leave at another module: '
                         f'{sum(self.changed)} {self.changed}')
        found += [f'tie at module {module} in {name}: equal scores, another '
                  'order' for module, name in self.ties]
        if self.drift:
            text = ' '.join(f'{x:.1e}' for x in self.drift)
            found.append(f'relative drift per block: {text}')
        return found


def same_parts(slot: np.ndarray) -> np.ndarray:
    """Numbers of tokens (n, ) -> for every patch the first one that is in the
    same token, whatever the numbers are; -1 stays."""
    _, first, inverse = np.unique(
        slot, return_index=True, return_inverse=True)
    return np.where(slot < 0, -1, first[inverse.reshape(slot.shape)])


class Comparison:
    """Compares images one after the other.

    Args:
        model: What was exported, in float32.
        half: The same in half precision, where the file is.
    """

    def __init__(self,
                 model: DeployModel,
                 half: Optional[DeployModel] = None) -> None:
        self.model, self.half = model, half
        modules = model.backbone.num_modules
        self.report = Report(changed=[0] * modules, half=half is not None)
        self._equal = self._all = 0
        self._drifts: List[List[float]] = []
        draws = [type(r).__name__ for r in model.backbone.reducers if r.draws]
        if draws:
            raise ValueError(
                f'{draws[0]} draws random numbers at test time: a file would '
                'draw others, and can not be proved equal. Such a control is '
                'not for deployment.')

    @torch.no_grad()
    def add(self, name: str, image: np.ndarray, found: Outputs) -> None:
        """Compare the outputs of one image (1, C, H, W)."""
        names = list(found)
        tensor = torch.from_numpy(image).float()
        with watch(self.model.backbone) as seen:
            wanted = dict(
                zip(names, (x.numpy() for x in self.model(tensor))))
        if self.half is not None:
            with watch(self.half.backbone) as drifted:
                self.half(tensor.to(next(self.half.parameters()).dtype))
            self._drifts.append([
                drift(a, b) for a, b in zip(drifted.blocks, seen.blocks)])
            self.report.drift = np.mean(self._drifts, axis=0).tolist()
        self.report.images += 1
        tied = self._tokens(name, found, wanted, seen.scores)
        if tied and self.half is None:
            return  # other tokens, so other values
        self._values(found, wanted)

    def _tokens(self, name: str, found: Outputs, wanted: Outputs,
                scores: Sequence[Optional[torch.Tensor]]) -> bool:
        """Whether tokens differ by a tie alone."""
        report = self.report
        if 'removed' not in found:
            return False
        ours, theirs = (x['removed'].ravel() for x in (found, wanted))
        differ = [np.flatnonzero((ours == i) != (theirs == i))
                  for i in range(len(report.changed))]
        for module, places in enumerate(differ):
            report.changed[module] += len(places)
        module = next((i for i, x in enumerate(differ) if len(x)), None)
        if module is None:
            mine, other = (same_parts(x['slot'].ravel())
                           for x in (found, wanted))
            if not np.array_equal(mine, other):
                report.merged.append(name)
            return False
        if _is_tie(scores[module], differ[module]):
            report.ties.append((module, name))
            return True
        if report.first is None or module < report.first:
            report.first = module
        return False

    def _values(self, found: Outputs, wanted: Outputs) -> None:
        report = self.report
        for key in wanted:
            if key in ('removed', 'slot'):
                continue
            ours, theirs = found[key].astype(np.float32), wanted[key]
            if ours.shape != theirs.shape:
                raise ValueError(f'{key} is {ours.shape} in the file and '
                                 f'{theirs.shape} in PyTorch.')
            error = np.abs(ours - theirs).max() / np.abs(theirs).max()
            error = float(error) if np.isfinite(error) else float('inf')
            report.error = max(report.error, error)
        if 'logits' in wanted and wanted['logits'].shape[1] > 1:
            same = found['logits'].argmax(1) == wanted['logits'].argmax(1)
            self._equal += int(same.sum())
            self._all += same.size
            report.agreement = self._equal / self._all


def _is_tie(scores: Optional[torch.Tensor], places: np.ndarray) -> bool:
    """Whether patches that one side prunes and the other keeps have scores
    that are equal within rounding."""
    if scores is None:
        return False
    scores = scores[0].numpy()
    there = scores[np.isfinite(scores)]
    gap = np.ptp(scores[places])
    return bool(np.isfinite(gap) and gap <= TIE * max(np.ptp(there), 1e-30))
