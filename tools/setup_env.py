#!/usr/bin/env python3
# Copyright (c) mmcropr contributors.
"""Start ``tools/environment/install.py``, or say which Python it needs.

This file keeps to what Python 2.7 can read: `python3` may be anything, and
an old one shall give a sentence, not a syntax error.
"""
import sys

OLDEST = (3, 8)

if __name__ == '__main__':
    if sys.version_info < OLDEST:
        sys.exit('[setup] error: %s is Python %d.%d; the set-up needs 3.10, '
                 '3.11 or 3.12. Name one: make ... PYTHON=/path/to/python3.11,'
                 ' or start it with one: python3.11 tools/setup_env.py' %
                 ((sys.executable, ) + tuple(sys.version_info[:2])))
    from environment.install import main
    main()
