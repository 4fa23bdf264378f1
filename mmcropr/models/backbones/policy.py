# Copyright (c) mmcropr contributors.
"""Attention by a decision that learns, inside timm's own attention."""
from contextlib import contextmanager
from typing import Iterator, Optional

import torch
from torch import Tensor, nn

# Keeps the attention of decided tokens defined (DynamicViT)
POLICY_EPS = 1e-6


def apply_policy(attention: Tensor, policy: Tensor) -> Tensor:
    """Attention to the tokens that stay and to oneself alone (DynamicViT,
    NeurIPS 2021), with a gradient to the decision for all tokens.

    With e = exp(logit - max of its row) and G the policy of the key, 1 on the
    diagonal, the weights are (e G + eps / M) / (sum(e G) + eps). Here e is
    read from the softmax: divided by its sum, which is 1 / max of the row.

    Args:
        attention: Softmax over all tokens, (B, heads, M, M).
        policy: 1 for tokens that stay and 0 for the others, (B, M).
    """
    length, dtype = policy.shape[1], attention.dtype
    attention, gate = attention.float(), policy.float()[:, None, None]
    diagonal = torch.eye(length, device=attention.device)
    gated = attention * (gate + (1 - gate) * diagonal)
    eps = POLICY_EPS * attention.amax(-1, keepdim=True)
    gated = (gated + eps / length) / (gated.sum(-1, keepdim=True) + eps)
    return gated.to(dtype)


@contextmanager
def attend_by_policy(attn: nn.Module, policy: Optional[Tensor]) -> Iterator:
    """Within this an attention module of timm goes by a policy (B, M), and
    its attention matrix is whole; None leaves it as it is."""
    if policy is None:
        yield
        return
    fused, attn.fused_attn = attn.fused_attn, False
    handle = attn.attn_drop.register_forward_pre_hook(
        lambda module, args: (apply_policy(args[0], policy), ))
    try:
        yield
    finally:
        handle.remove()
        attn.fused_attn = fused
