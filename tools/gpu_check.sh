#!/usr/bin/env bash
# Everything that only a GPU can show, in one command of at most 8 minutes:
#   tools/gpu_check.sh [OUT.json]
# Needs torch, timm, mmengine, mmsegmentation, pytest and mmcv or mmcv-lite;
# what mmdet or mmpretrain is missing for is left out, and said.
# PYTHON=... chooses the interpreter, MINUTES=... another limit.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" \
    tools/analysis_tools/gpu_check.py --minutes "${MINUTES:-8}" "$@"
