# Copyright (c) mmcropr contributors.
from typing import Optional

from mmengine.model import BaseModule

from mmcropr.registry import MODELS
from mmcropr.structures import FeatureMaps, TokenState


@MODELS.register_module()
class PoolNeck(BaseModule):
    """Tokens before the last block -> one vector per image, for the linear
    head of a classifier. No parameters: last block and norm are those of the
    backbone.

    Args:
        pool: 'avg' takes the mean over all tokens, prefix tokens included as
            in Token Cropr, and normalises it (timm's ``fc_norm``); 'cls'
            normalises all tokens and takes the class token. In the mean
            merged tokens of ToMe count by their size, filling and, in training
            of DynamicViT, what was decided against not at all.
        llf: Whether the last block processes all tokens (Last Layer Fusion),
            or those that are left; by default as ``fuse_at`` of the backbone
            says, which also sets where reducers can be.
        init_cfg: As of every mmengine module.

    Attributes:
        takes_tokens: Says that this neck takes a :class:`TokenState`.

    Raises:
        ValueError: If ``pool`` is neither.
    """

    takes_tokens = True

    def __init__(self,
                 pool: str = 'avg',
                 llf: Optional[bool] = None,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(init_cfg)
        if pool not in ('avg', 'cls'):
            raise ValueError(f"pool must be 'avg' or 'cls', got {pool!r}")
        self.pool, self.llf = pool, llf

    def forward(self, inputs: TokenState) -> FeatureMaps:
        """State of a backbone with ``out_type='tokens'`` -> (B, D), as the
        only item of a tuple that carries the state.

        Raises:
            TypeError: If ``inputs`` are something else.
            ValueError: If the class token is asked for and there is none.
        """
        if not isinstance(inputs, TokenState):
            raise TypeError(
                'PoolNeck takes the TokenState of a mmcropr.CroprViT with '
                f"out_type='tokens', got {type(inputs).__name__}.")
        if self.pool == 'cls' and not inputs.origin.has_class_token:
            raise ValueError("pool='cls' needs a model with a class token; "
                             f'this one has none among its '
                             f"{inputs.num_prefix} prefix tokens: use "
                             "pool='avg'.")
        llf = inputs.origin.fuses if self.llf is None else self.llf
        state = inputs.restore() if llf else inputs
        if self.pool == 'cls':
            return FeatureMaps([state.finish()[:, 0]], state)
        x, weights = state.finish_block(), state.size
        if state.mask is not None:
            weights = state.mask if weights is None else weights * state.mask
        if weights is None:
            return FeatureMaps([state.origin.norm(x.mean(1))], state)
        # Without prefix tokens an image may have decided against all
        total = weights.sum(1, keepdim=True).clamp(min=1)
        weights = (weights / total).to(x.dtype)
        # No matrix product, which autocast would run in half precision
        mean = (weights[..., None] * x).sum(1)
        return FeatureMaps([state.origin.norm(mean)], state)
