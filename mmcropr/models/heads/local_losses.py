# Copyright (c) mmcropr contributors.
"""Losses whose gradient is computed at once.

The loss of a Cropr module ends at its tokens: nothing before them waits for
its gradient. So it is differentiated where it is computed, what that kept is
freed, and the backward pass only hands the gradients over, multiplied by what
comes from above. At any time the activations of at most one module exist.
"""
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mmcropr.utils.precision import casts


class HandOver(torch.autograd.Function):
    """A loss, and the gradients of it that are known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, scale: Tensor, grads: List[Tensor],
                *parameters: nn.Parameter) -> Tensor:
        ctx.save_for_backward(scale, *grads)
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> Tuple[Optional[Tensor], ...]:
        scale, *grads = ctx.saved_tensors
        grads = torch._foreach_mul(grads, above.float() / scale)
        return None, None, None, *grads


class GradScale(nn.Module):
    """Keeps gradients in float16 from underflow, without waiting for a GPU.

    The scaler of the optimiser multiplies losses after these were
    differentiated, so they need a scale of their own: halved after an
    iteration whose gradients are not finite, which the optimiser's scaler
    finds, too, and skips; doubled after ``interval`` good ones. That is later
    than the optimiser's doubles (after 2000), so that both find a balance. A
    power of two: it changes no result that needs none.

    Args:
        start: First scale.
        most: Largest one.
        interval: Good iterations in a row after which it is doubled.
    """

    def __init__(self,
                 start: float = 2.**13,
                 most: float = 2.**16,
                 interval: int = 4000) -> None:
        super().__init__()
        self.most, self.interval = most, interval
        self.largest: List[Tensor] = []  # of the gradients of an iteration
        # Not a part of checkpoints: it finds its value again
        self.register_buffer('value', torch.tensor(start), persistent=False)
        self.register_buffer('good', torch.tensor(0.), persistent=False)

    @torch.no_grad()
    def see(self, grads: List[Tensor]) -> None:
        """Look at gradients of a loss that was multiplied by ``value``."""
        self.largest += torch._foreach_norm(grads, torch.inf)

    @torch.no_grad()
    def update(self) -> None:
        """Learn from all gradients seen in this iteration, if there are."""
        if not self.largest:
            return
        largest = torch.stack([value.float() for value in self.largest])
        finite, self.largest = largest.isfinite().all(), []
        good = torch.where(finite, self.good + 1, 0.)
        grow = good >= self.interval
        value = torch.where(finite, self.value, self.value / 2)
        value = torch.where(grow, value * 2, value).clamp(1., self.most)
        self.value.copy_(value)
        self.good.copy_(torch.where(grow, 0., good))


def _in_float16(device: str, parameters: List[nn.Parameter]) -> bool:
    if any(p.dtype == torch.float16 for p in parameters):
        return True
    if hasattr(torch, 'get_autocast_dtype'):
        return casts(device) and torch.is_autocast_enabled(
            device) and torch.get_autocast_dtype(device) == torch.float16
    # torch before 2.4 has functions of their own for the CPU
    return device == 'cuda' and torch.is_autocast_enabled(
    ) and torch.get_autocast_gpu_dtype() == torch.float16


def has_shards(module: nn.Module) -> bool:
    """Whether parts of a module are units of FSDP, whose weights are there
    only while their own forward and backward passes run."""
    return any(
        kind.__name__ in ('FSDPModule', 'FullyShardedDataParallel')
        for part in module.modules() for kind in type(part).__mro__)


def local_losses(compute: Callable[[], Dict[str, Any]],
                 parameters: List[nn.Parameter],
                 scale: GradScale) -> Dict[str, Any]:
    """Losses of ``compute`` that carry the gradients of the parameters with
    them and nothing else.

    What has 'loss' in its name is added up, as mmengine does, and
    differentiated once; the first of them hands the gradients over, the others
    are numbers for the log. So all of them must be weighted alike.

    Hooks of the parameters see the gradient of the backward pass only if they
    wait for its accumulation, as distributed training does; those of
    ``Tensor.register_hook`` see it twice.

    Args:
        compute: Gives losses by name, tensors or lists of them, which are
            reduced to their mean.
        parameters: All that they can depend on. What needs no gradient is
            left out.
        scale: For gradients in float16; to be updated once per iteration.

    Returns:
        The losses, scalars. Where there is nothing to differentiate, as they
        come.
    """
    parameters = [p for p in dict.fromkeys(parameters) if p.requires_grad]
    values = compute()
    if not (torch.is_grad_enabled() and parameters):
        return values
    losses = {name: _mean(value) for name, value in values.items()
              if 'loss' in name}
    total = sum(losses.values())
    if not isinstance(total, Tensor) or not total.requires_grad:
        return values
    values = {**values, **{k: v.detach() for k, v in losses.items()}}
    first = next(iter(losses))
    values[first] = _differentiate(total, values[first], parameters, scale)
    return values


def _mean(loss: Any) -> Tensor:
    if isinstance(loss, Tensor):
        return loss.mean()
    return sum(part.mean() for part in loss)


def _differentiate(total: Tensor, shown: Tensor,
                   parameters: List[nn.Parameter],
                   scale: GradScale) -> Tensor:
    """The value ``shown`` with the gradients of ``total``."""
    half = _in_float16(total.device.type, parameters)
    factor = scale.value.clone() if half else torch.ones_like(scale.value)
    scaled = total.float() * factor if half else total
    grads = torch.autograd.grad(scaled, parameters, allow_unused=True)
    used = [(p, g) for p, g in zip(parameters, grads) if g is not None]
    parameters, grads = [p for p, _ in used], [g for _, g in used]
    if half and grads:
        scale.see(grads)
    return HandOver.apply(shown, factor, grads, *parameters)
