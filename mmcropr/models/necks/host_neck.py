# Copyright (c) mmcropr contributors.
from typing import Any, Optional

from mmengine.model import BaseModule
from mmengine.registry import MODELS as ALL_MODELS
from torch import Tensor

from mmcropr.registry import MODELS
from mmcropr.structures import FeatureMaps


@MODELS.register_module()
class HostNeck(BaseModule):
    """A neck of a host behind one of ours, that passes the token state on,
    which auxiliary heads of segmentors read.

    Args:
        neck: Config of the neck, of the registry of its host, such as
            ``dict(type='Feature2Pyramid', ...)``.
        init_cfg: As of every mmengine module.
    """

    def __init__(self, neck: dict, init_cfg: Optional[dict] = None) -> None:
        super().__init__(init_cfg)
        self.neck = ALL_MODELS.build(neck)

    def forward(self, inputs: FeatureMaps) -> Any:
        """Maps -> the neck's maps, with the state."""
        maps = self.neck(inputs)
        maps = [maps] if isinstance(maps, Tensor) else maps
        state = getattr(inputs, 'state', None)
        return maps if state is None else FeatureMaps(maps, state)
