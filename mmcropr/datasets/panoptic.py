# Copyright (c) mmcropr contributors.
from typing import Any

from mmdet.datasets.transforms import LoadAnnotations
from mmdet.datasets.transforms import \
    LoadPanopticAnnotations as MMDetLoadPanopticAnnotations

from mmcropr.registry import TRANSFORMS
from mmcropr.utils.panoptic import rgb_to_id


@TRANSFORMS.register_module()
class LoadPanopticAnnotations(MMDetLoadPanopticAnnotations):
    """That of mmdet, without panopticapi, which no package index has.

    Args:
        with_bbox: Whether to load boxes.
        with_label: Whether to load labels.
        with_mask: Whether to load masks of things.
        with_seg: Whether to load the map of all classes.
        kwargs: See mmdet's ``LoadAnnotations``.
    """

    def __init__(self,
                 with_bbox: bool = True,
                 with_label: bool = True,
                 with_mask: bool = True,
                 with_seg: bool = True,
                 **kwargs: Any) -> None:
        LoadAnnotations.__init__(
            self,
            with_bbox=with_bbox,
            with_label=with_label,
            with_mask=with_mask,
            with_seg=with_seg,
            **kwargs)
        self.rgb2id = rgb_to_id
