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
        factor = above.float() / scale
        return (None, None, None, *((factor * g).to(g.dtype) for g in grads))


class GradScale(nn.Module):
    """Keeps gradients in float16 from underflow, without waiting for a GPU.

    The scaler of the optimiser multiplies losses after these were
    differentiated, so they need a scale of their own: halved after gradients
    that are not finite, which the optimiser's scaler finds, too, and skips;
    doubled after ``interval`` good ones up to where it began. A power of two:
    it changes no result that needs none.

    Args:
        start: First scale.
        interval: Good gradients in a row after which it is doubled.
    """

    def __init__(self, start: float = 2.**16, interval: int = 2000) -> None:
        super().__init__()
        self.start, self.interval = start, interval
        # Not a part of checkpoints: it finds its value again in a few steps
        self.register_buffer('value', torch.tensor(start), persistent=False)
        self.register_buffer('good', torch.tensor(0.), persistent=False)

    @torch.no_grad()
    def update(self, grads: List[Tensor]) -> None:
        """Learn from gradients of a loss that was multiplied by ``value``."""
        finite = torch.stack([g.isfinite().all() for g in grads]).all()
        good = torch.where(finite, self.good + 1, 0.)
        grow = good >= self.interval
        value = torch.where(finite, self.value, self.value / 2)
        value = torch.where(grow, value * 2, value).clamp(1., self.start)
        self.value.copy_(value)
        self.good.copy_(torch.where(grow, 0., good))


def _in_float16(device: str) -> bool:
    if hasattr(torch, 'get_autocast_dtype'):
        return torch.is_autocast_enabled(
            device) and torch.get_autocast_dtype(device) == torch.float16
    # torch before 2.4 has functions of their own for the CPU
    return device == 'cuda' and torch.is_autocast_enabled(
    ) and torch.get_autocast_gpu_dtype() == torch.float16


def local_losses(compute: Callable[[], Dict[str, Tensor]],
                 parameters: List[nn.Parameter],
                 scale: GradScale) -> Dict[str, Tensor]:
    """Losses of ``compute`` that carry the gradients of the parameters with
    them and nothing else.

    Hooks of the parameters see the gradient of the backward pass only if they
    wait for its accumulation, as distributed training does; those of
    ``Tensor.register_hook`` see it twice.

    Args:
        compute: Gives losses by name; each is reduced to its mean, as
            mmengine does when it sums them.
        parameters: All that they depend on. What needs no gradient is left
            out.
        scale: For autocast to float16.

    Returns:
        The losses, scalars. Where gradients are off, as they come.
    """
    parameters = [p for p in parameters if p.requires_grad]
    losses = compute()
    if not torch.is_grad_enabled():
        return losses
    found = {}
    for number, (name, loss) in enumerate(losses.items()):
        loss = loss.mean()
        if loss.requires_grad:
            last = number + 1 == len(losses)
            loss = _differentiate(loss, parameters, scale, last)
        found[name] = loss
    return found


def _differentiate(loss: Tensor, parameters: List[nn.Parameter],
                   scale: GradScale, last: bool) -> Tensor:
    half = _in_float16(loss.device.type)
    factor = scale.value.clone() if half else torch.ones_like(scale.value)
    scaled = loss.float() * factor if half else loss
    grads = torch.autograd.grad(
        scaled, parameters, retain_graph=not last, allow_unused=True)
    used = [(p, g) for p, g in zip(parameters, grads) if g is not None]
    parameters, grads = [p for p, _ in used], [g for _, g in used]
    if half:
        scale.update(grads)
    return HandOver.apply(loss.detach(), factor, grads, *parameters)
