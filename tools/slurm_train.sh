#!/usr/bin/env bash
# bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG [ARGUMENTS OF tools/train.py]
# GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (8), MASTER_PORT (drawn), SRUN_ARGS:
# environment. A task is a GPU's: its data workers, decoding threads and itself.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
PARTITION=$1
JOB_NAME=$2
CONFIG=$3
GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
# Two trainings on one node must not meet at mmengine's 29500; below the ports
# that the system itself gives out.
export MASTER_PORT=${MASTER_PORT:-$((10000 + RANDOM % 20000))}

# shellcheck disable=SC2086
srun -p "$PARTITION" \
    --job-name="$JOB_NAME" \
    --gres=gpu:"$GPUS_PER_NODE" \
    --ntasks="$GPUS" \
    --ntasks-per-node="$GPUS_PER_NODE" \
    --cpus-per-task="${CPUS_PER_TASK:-8}" \
    --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "$0")/train.py" "$CONFIG" --launcher slurm "${@:4}"
