# Copyright (c) mmcropr contributors.
from .explorer import Item, write_explorer
from .fates import Fates, record_fates
from .figures import (merge_colours, module_handles, removal_colours,
                      removal_figure, save_figure, strip_figure)
from .predictor import Picture, Predictor, check_out, list_images, truth_of

__all__ = [
    'Fates', 'Item', 'Picture', 'Predictor', 'check_out', 'list_images',
    'merge_colours', 'module_handles', 'record_fates', 'removal_colours',
    'removal_figure', 'save_figure', 'strip_figure', 'truth_of',
    'write_explorer'
]
