# Copyright (c) mmcropr contributors.
from mmengine.model import BaseModule

from mmcropr.registry import MODELS
from mmcropr.structures import FeatureMaps


@MODELS.register_module()
class ReadoutNeck(BaseModule):
    """Pairs of map and readout token, as mmseg's ``DPTHead`` reads them, from
    a backbone with ``out_type='featmap'`` and an item of ``out_indices`` per
    map. No parameters.

    The token is the class token behind the block of the map, or of a model
    without one the mean of the map.
    """

    def forward(self, inputs: FeatureMaps) -> FeatureMaps:
        """Maps (B, D, h, w) -> as many pairs with a token (B, D).

        Raises:
            TypeError: If ``inputs`` come from no ``out_type='featmap'``.
        """
        prefix = getattr(inputs, 'prefix', ())
        if not prefix:
            raise TypeError(
                'ReadoutNeck takes the maps of a mmcropr.CroprViT with '
                f"out_type='featmap', got {type(inputs).__name__}: set "
                "out_type='featmap' and out_indices with as many blocks as "
                'the head reads maps, and have no neck before this one.')
        if inputs.state.origin.has_class_token:
            tokens = [x[:, 0] for x in prefix]
        else:
            tokens = [features.mean((2, 3)) for features in inputs]
        return FeatureMaps(zip(inputs, tokens), inputs.state)
