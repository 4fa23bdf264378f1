# Copyright (c) mmcropr contributors.
"""A hook for the tests of whole runs: masks are compared at the same points in
every iteration and process."""
import torch
from mmdet.models.dense_heads import mask2former_head
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module(force=True)
class SamePoints(Hook):
    """Matching and losses of Mask2Former at points of a regular grid."""

    def before_train(self, runner) -> None:
        axis = (torch.arange(8) + .5) / 8
        grid = torch.cartesian_prod(axis, axis)[None]
        rand = torch.rand

        def points(*shape, **kwargs):
            given = shape[0] if isinstance(shape[0], tuple) else shape
            return grid if given == (1, 64, 2) else rand(*shape, **kwargs)

        torch.rand = points
        mask2former_head.get_uncertain_point_coords_with_randomness = (
            lambda masks, *args: grid.expand(len(masks), -1, -1))
