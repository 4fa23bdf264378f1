# Copyright (c) mmcropr contributors.
"""Published accuracy tables (Bergner et al., Token Cropr, CVPR 2025), trained
anew at small scale."""
