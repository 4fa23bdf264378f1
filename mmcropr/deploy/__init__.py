# Copyright (c) mmcropr contributors.
