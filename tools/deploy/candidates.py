# Copyright (c) mmcropr contributors.
"""A config in every format, beside no pruning and ideal slicing, with random
weights: what its pruning is worth in each runtime."""
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmcropr.deploy.description import OPSET
from mmcropr.deploy.formats import FORMATS, Run, check_packages, check_torch

sys.path.insert(0, str(Path(__file__).parents[1] / 'analysis_tools'))
from entries import Entry, backbone_of, make_entries  # noqa: E402

PYTORCH = 'pytorch'


class Candidate(NamedTuple):
    """What is timed: of which entry, in which format; ``none`` and
    ``slicing`` name the entries that it is compared with."""
    entry: str
    kind: str
    run: Run
    none: Optional[str]
    slicing: Optional[str]


class Outputs(nn.Module):
    """A model whose outputs are a tuple of tensors, as exporters need."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: Tensor) -> Tuple[Tensor, ...]:
        found = self.module(image)
        return (found, ) if isinstance(found, Tensor) else tuple(found)


def _eager(module: nn.Module) -> Run:
    @torch.no_grad()
    def run(image: Any) -> Any:
        return module(torch.from_numpy(image))

    return run


def _exported(entry: Entry, kind: str, image: Tensor, folder: Path) -> Run:
    """Write an entry to a file, and open it."""
    form = FORMATS[kind]
    model = Outputs(entry.module).eval().requires_grad_(False)
    with torch.no_grad():
        names = [f'map_{i}' for i in range(len(model(image)))]
        program = torch.export.export(model, (image, ))
    description = dict(
        opset=OPSET, input=dict(shape=list(image.shape), dtype='float32'))
    file = folder / f'{kind}{form.suffix}'
    form.write(program, names, description, file)
    return form.open(file)[1]


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise an ImportError, with the command, if a format needs what is not
    installed."""
    check_torch()
    for kind in kinds:
        form = FORMATS[kind]
        needed = tuple(dict.fromkeys((*form.needs, *form.runs_by)))
        check_packages(needed, f'format {kind}')


def make_candidates(config: str, kinds: Sequence[str], shape: Tuple[int, int],
                    batch: int, part: str, folder: Path) -> List[Candidate]:
    """A config, no pruning and ideal slicing, in PyTorch and all formats.

    Args:
        config: Path.
        kinds: Names of formats.
        shape: Height and width of images in pixels.
        batch: Images at once.
        part: 'whole' (no detector) or 'encoder'.
        folder: For the files.

    Raises:
        ImportError: See :func:`check_kinds`.
        ValueError: If the config has no reducer, or is a whole detector.
    """
    check_kinds(kinds)
    entries = make_entries({config: Config.fromfile(config)}, part == 'whole')
    if len(entries) != 3:
        raise ValueError(f'{config} has no reducer: nothing to compare.')
    result = []
    for number, entry in enumerate(entries):
        if getattr(entry.module, 'is_detector', False):
            raise ValueError(f'{config} is a detector: give --part encoder.')
        backbone = backbone_of(entry.module)
        image = torch.rand(batch, backbone.in_channels, *shape)
        backbone.trunk.fix_positions(shape)
        runs: Dict[str, Run] = {PYTORCH: _eager(entry.module)}
        for kind in kinds:
            start = time.perf_counter()
            below = folder / str(number)
            below.mkdir(exist_ok=True)
            runs[kind] = _exported(entry, kind, image, below)
            print(f'{entry.name}: {kind} in '
                  f'{time.perf_counter() - start:.0f} s', file=sys.stderr)
        result += [
            Candidate(entry.name, kind, run, entry.none, entry.slicing)
            for kind, run in runs.items()
        ]
    return result
