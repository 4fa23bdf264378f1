# Copyright (c) mmcropr contributors.
from .explorer import Item, write_explorer
from .fates import Fates, record_fates
from .figures import (block_colours, block_handles, merge_colours,
                      removal_colours, removal_figure, save_figure,
                      strip_figure)
from .predictor import Picture, Predictor, check_out, list_images, truth_of

__all__ = [
    'Fates', 'Item', 'Picture', 'Predictor', 'block_colours', 'block_handles',
    'check_out', 'list_images', 'merge_colours', 'record_fates',
    'removal_colours', 'removal_figure', 'save_figure', 'strip_figure',
    'truth_of', 'write_explorer'
]
