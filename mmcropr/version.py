# Copyright (c) mmcropr contributors.
__version__ = '0.1.0'
