#!/usr/bin/env bash
# usage: tools/dist_train.sh CONFIG GPUS [OPTIONS of tools/train.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
set -euo pipefail
if [ "$#" -lt 2 ]; then
    sed -n 2,3p "$0" | cut -c3- >&2
    exit 2
fi
HERE=$(cd "$(dirname "$0")" && pwd)
PYTHONPATH="$HERE/..:${PYTHONPATH:-}" exec python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$2" \
    "$HERE/train.py" "${@:1:1}" --launcher pytorch "${@:3}"
