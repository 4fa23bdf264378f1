# Copyright (c) mmcropr contributors.
"""Curves of speed: against image size, and against sequence length."""
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from entries import Entry, backbone_of, make_entries
from mmengine.config import Config
from tables import Row, load
from timing import DTYPES, Clock, building_on, make_run, noise, summarise
from torch import nn

from mmcropr.models.backbones.arch import build_vit

SIZES = {  # ViT -> config, image sizes in pixels
    'ViT-B/16': ('cropr/cropr-r16_vit-b_8xb128-amp-50e_in1k-224.py',
                 (224, 384, 512, 768, 1024)),
    'ViT-L/16': ('cropr/cropr-r8_vit-l_8xb128-amp-50e_in1k-224.py',
                 (224, 384, 512, 768, 1024)),
    'ViT-H/14': ('cropr/cropr-r8_vit-h_8xb128-amp-50e_in1k-224.py',
                 (224, 392, 518, 770, 1022)),
}
LENGTHS = tuple(range(496, 529)) + tuple(range(1008, 1041))
LENGTH_ARCH, LENGTH_BLOCKS = 'vit_large_patch16_224', 4


class Mode(NamedTuple):
    """How a curve is measured: a type of ``DTYPES``, and whether attention is
    one fused kernel."""
    name: str
    dtype: str
    fused: bool


def modes(device: torch.device) -> Tuple[Mode, ...]:
    """FP32, AMP, and AMP without fused attention, which is in half precision
    that the device computes with."""
    amp = 'amp-float16' if device.type == 'cuda' else 'amp-bfloat16'
    return (Mode('FP32', 'float32', True), Mode('AMP', amp, True),
            Mode('AMP, attention not fused', amp, False))


def set_fused(module: nn.Module, fused: bool) -> None:
    """Let timm's attentions use torch's fused kernel, or write it out."""
    for part in module.modules():
        if hasattr(part, 'fused_attn'):
            part.fused_attn = fused


def measure_sizes(device: torch.device, batch: int, warmup: int, rounds: int,
                  small: bool = False) -> List[Dict[str, Any]]:
    """Encoders of three ViTs by image size: images per second without pruning
    and with Cropr, in every mode.

    Args:
        device: To run on.
        batch: Images at once; halved as often as memory asks for.
        warmup: Rounds that do not count.
        rounds: Those that do.
        small: Narrow ViTs, at the first two sizes.
    """
    results = []
    for vit, (config, sizes) in SIZES.items():
        cfg: Config = load(Row(vit, config), small)
        with building_on(device):
            entries = make_entries({'Cropr': cfg}, whole=False)
        for size in sizes[:2] if small else sizes:
            for mode in modes(device):
                point = dict(vit=vit, size=size, mode=mode.name)
                point.update(
                    _at_size(entries, size, mode, device, batch, warmup,
                             rounds))
                results.append(point)
        del entries
    return results


def _at_size(entries: List[Entry], size: int, mode: Mode,
             device: torch.device, batch: int, warmup: int,
             rounds: int) -> Dict[str, Any]:
    dtype, amp = DTYPES[mode.dtype]
    for entry in entries:
        entry.module.to(device, dtype)
        set_fused(entry.module, mode.fused)
    channels = backbone_of(entries[0].module).in_channels

    def attempt(batch: int) -> List[Dict[str, Any]]:
        image = torch.rand(
            batch, channels, size, size, device=device, dtype=dtype)
        runs = {e.name: make_run(e, image, amp) for e in entries}
        seconds = Clock(device).take_turns(runs, warmup, rounds)
        return summarise(entries, seconds, batch)

    rows, batch = with_decay(attempt, batch)
    none = next(row for row in rows if row['ratio_to_no_pruning'] is None)
    cropr = next(row for row in rows if row['name'] == 'Cropr')
    return dict(
        batch=batch,
        no_pruning=none['images_per_second'],
        cropr=cropr['images_per_second'],
        ratio=cropr['ratio_to_no_pruning'],
        ratio_to_ideal_slicing=cropr['ratio_to_ideal_slicing'],
        noise=noise(rows))


def with_decay(attempt: Any, batch: int) -> Tuple[Any, int]:
    """Result of a measurement at the largest batch, halved from ``batch``,
    that memory holds; and that batch.

    Raises:
        ValueError: If one image is too much, with what could not be had.
    """
    while True:
        try:
            return attempt(batch), batch
        except RuntimeError as error:
            # On CPU it is an error of no type of its own
            if not isinstance(error, torch.cuda.OutOfMemoryError) and (
                    'not enough memory' not in str(error)):
                raise
            if batch == 1:
                raise ValueError('one image at once is too much for the '
                                 f'memory here: {error}') from error
        batch //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def measure_lengths(device: torch.device, dtype: str, batch: int, warmup: int,
                    rounds: int, small: bool = False,
                    lengths: Optional[Sequence[int]] = None
                    ) -> List[Dict[str, Any]]:
    """Blocks of a ViT-L on sequences of M tokens: tokens per second, by M.

    Args:
        device: To run on.
        dtype: Of ``DTYPES``.
        batch: Sequences at once.
        warmup: Rounds that do not count.
        rounds: Those that do.
        small: A narrow ViT.
        lengths: Values of M; :data:`LENGTHS` by default.
    """
    arch: Dict[str, Any] = dict(name=LENGTH_ARCH, depth=LENGTH_BLOCKS)
    if small:
        arch.update(embed_dim=192, num_heads=3)
    dtype, amp = DTYPES[dtype]
    with building_on(device):
        vit = build_vit(arch, (224, 224)).eval().to(device, dtype)
    entries, runs = [], {}
    for length in LENGTHS if lengths is None else lengths:
        name = str(length)
        entries.append(Entry(name, vit.blocks, None, None))
        tokens = torch.rand(
            batch, length, vit.embed_dim, device=device, dtype=dtype)
        runs[name] = make_run(entries[-1], tokens, amp)
    seconds = Clock(device).take_turns(runs, warmup, rounds)
    return [
        dict(
            length=int(row['name']),
            tokens_per_second=row['images_per_second'] * int(row['name']))
        for row in summarise(entries, seconds, batch)
    ]
