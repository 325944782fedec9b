#!/usr/bin/env bash
# On one node: bash tools/dist_train.sh CONFIG GPUS [ARGUMENTS OF tools/train.py]
# On several: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }
CONFIG=$1
GPUS=$2
REST=("${@:3}")
# Two trainings on one machine must not meet; several machines must agree.
[ "${NNODES:-1}" != 1 ] || PORT=${PORT:-$((10000 + RANDOM % 20000))}

"${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --nproc_per_node="$GPUS" \
    --master_port="${PORT:-29500}" \
    "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "${REST[@]}"
