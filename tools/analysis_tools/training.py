# Copyright (c) mmcropr contributors.
"""Training steps on made-up images and labels, for the analysis tools."""
import contextlib
from fractions import Fraction
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import torch
from formulas import attention_formulas
from labels import detector_of, make_labels
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmcropr.models.checks import find_backbone
from mmcropr.models.heads import StateHead
from mmcropr.models.heads.local_losses import HandOver
from mmcropr.structures import Route
from mmcropr.utils.build import plain_model


def build_for_training(cfg: Config, plain: bool = False) -> nn.Module:
    """The model of a config with random weights, in train mode.

    Args:
        cfg: The config.
        plain: Whether without reducers, and without their auxiliary heads.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model_cfg = plain_model(cfg.model) if plain else cfg.model
    if plain:
        model_cfg.backbone.pop('reducer', None)
    return MODELS.build(model_cfg).train()


def no_drop_path(model: nn.Module) -> None:
    """Leave out the random skipping of blocks, which would make the work of
    a step depend on luck."""
    for block in detector_of(model).backbone.vit.blocks:
        for name in ('drop_path', 'drop_path1', 'drop_path2'):
            if hasattr(block, name):
                setattr(block, name, nn.Identity())


def parse_share(text: str) -> Tuple[int, int]:
    """Share of the full pruning rate, '0.5' or '1/2' -> (1, 2).

    Raises:
        ValueError: If it is not a number from 0 to 1.
    """
    try:
        share = Fraction(text)
    except ZeroDivisionError:
        raise ValueError(f'not a number: {text}') from None
    if not 0 <= share <= 1:
        raise ValueError(f'not in [0, 1]: {text}')
    return share.numerator, share.denominator


def set_share(model: nn.Module, share: Tuple[int, int]) -> None:
    """Prune by this share of the full rate, as the curriculum does."""
    detector_of(model).backbone.set_progress(share)


class TrainingStep:
    """Forward and backward pass, and a step of the optimiser if there is one.

    Args:
        model: In train mode, on the device.
        image: Preprocessed, (B, C, H, W).
        amp: Type of autocast, or None.
        optimizer: To be stepped, or None.
    """

    def __init__(self,
                 model: nn.Module,
                 image: Tensor,
                 amp: Optional[torch.dtype] = None,
                 optimizer: Optional[torch.optim.Optimizer] = None) -> None:
        self.model, self.image, self.amp = model, image, amp
        self.optimizer = optimizer
        scaler = getattr(torch.amp, 'GradScaler', torch.cuda.amp.GradScaler)
        self.scaler = scaler(
            enabled=image.is_cuda and amp == torch.float16)
        self.labels = make_labels(model, image)

    def losses(self) -> Dict[str, Any]:
        """The forward pass: losses by name."""
        device = self.image.device.type
        context = contextlib.nullcontext() if self.amp is None else (
            torch.autocast(device, self.amp))
        with context:
            return self.model(self.image, self.labels, mode='loss')

    def backward(self, losses: Dict[str, Any]) -> None:
        """The rest of the step."""
        self.scaler.scale(self.model.parse_losses(losses)[0]).backward()
        if self.optimizer is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.model.zero_grad(set_to_none=True)

    def __call__(self) -> None:
        self.backward(self.losses())


class KeptBytes:
    """Memory that is kept for the backward pass: every storage once, without
    the weights themselves."""

    def __init__(self, model: nn.Module) -> None:
        tensors = [*model.parameters(), *model.buffers()]
        self._known = {t.untyped_storage().data_ptr() for t in tensors}
        self._alive: Dict[int, List[int]] = {}  # address -> uses, bytes

    @property
    def total(self) -> int:
        """Bytes kept now."""
        return sum(size for _, size in self._alive.values())

    @contextlib.contextmanager
    def counted(self) -> Iterator['KeptBytes']:
        """Count what is saved in this context."""
        with torch.autograd.graph.saved_tensors_hooks(
                self._pack, lambda kept: kept.tensor):
            yield self

    def _pack(self, tensor: Tensor) -> '_Kept':
        return _Kept(tensor, self._alive, self._known)


class _Kept:
    """A saved tensor, counted as long as it is saved."""

    def __init__(self, tensor: Tensor, alive: Dict[int, List[int]],
                 known: set) -> None:
        # A result that is saved would hold itself by its own graph
        self.tensor, self.alive = tensor.detach(), alive
        storage = tensor.untyped_storage()
        self.key = storage.data_ptr()
        if self.key in known:
            self.key = 0
        if self.key:
            entry = alive.setdefault(self.key, [0, storage.nbytes()])
            entry[0] += 1

    def __del__(self) -> None:
        if self.key:
            entry = self.alive[self.key]
            entry[0] -= 1
            if entry[0] == 0:
                del self.alive[self.key]


def early_gradients(losses: Dict[str, Any]) -> int:
    """Bytes of the gradients that local losses hold already."""
    total = 0
    for loss in losses.values():
        node = getattr(loss, 'grad_fn', None)
        if node is not None and node.name() == f'{HandOver.__name__}Backward':
            total += sum(t.nbytes for t in node.saved_tensors[1:])
    return total


def count_step(cfg: Config, shape: Tuple[int, int], batch: int = 1,
               amp: Optional[torch.dtype] = None,
               share: Tuple[int, int] = (1, 1)) -> Dict[str, Any]:
    """Work and memory of one training step, which is done for that.

    Args:
        cfg: Config whose backbone is a CroprViT.
        shape: Height and width of the images in pixels.
        batch: Number of images.
        amp: Type of autocast, or None.
        share: Of the full pruning rate, numerator and denominator.

    Returns:
        ``flops`` of forward and backward pass, ``attention_flops`` of these
        in fused attention and ``auxiliary_flops`` in the auxiliary head (None
        where its losses go on into the backbone);
        ``kept_bytes`` for the backward pass at its
        start, and ``early_gradient_bytes`` more of gradients that local
        losses hold by then, all of which exist at its end in any case.
    """
    torch.manual_seed(0)
    model = build_for_training(cfg)
    backbone = find_backbone(model)
    no_drop_path(model)
    set_share(model, share)
    image = torch.randn(batch, backbone.in_channels, *shape)
    step, kept = TrainingStep(model, image, amp), KeptBytes(model)

    def counter() -> FlopCounterMode:
        return FlopCounterMode(
            display=False, custom_mapping=attention_formulas())

    with counter() as flops:
        with kept.counted():
            losses = step.losses()
        early = early_gradients(losses)
        result = dict(
            kept_bytes=kept.total - early, early_gradient_bytes=early)
        step.backward(losses)
    result['flops'] = flops.get_total_flops()
    result['attention_flops'] = sum(
        count for op, count in flops.get_flop_counts()['Global'].items()
        if 'attention' in str(op))
    result['auxiliary_flops'] = _auxiliary_flops(step, backbone, counter)
    return result


def _auxiliary_flops(step: TrainingStep, backbone: nn.Module,
                     counter: Callable) -> Optional[int]:
    """Work of the auxiliary heads alone; None where their losses go on into
    the backbone, so that the two cannot be told apart."""
    heads = [m for m in step.model.modules() if isinstance(m, StateHead)]
    if not heads:
        return 0
    states: List[Any] = []
    handle = backbone.register_forward_hook(
        lambda module, args, out: states.append(out))
    with torch.no_grad():
        step.losses()
    handle.remove()
    records = getattr(states[0], 'state', states[0]).records
    if not all(isinstance(r, Route) for r in records) or not all(
            getattr(r, 'stop_gradient', True) for r in backbone.reducers):
        return None
    with counter() as flops:
        for head in heads:
            losses = head.loss(states[0], step.labels)
            step.model.parse_losses(losses)[0].backward()
    return flops.get_total_flops()
