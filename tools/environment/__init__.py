# Copyright (c) mmcropr contributors.
"""How an environment for mmcropr is made; see ``install.py``."""
