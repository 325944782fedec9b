#!/usr/bin/env bash
# sbatch --partition=NAME tools/slurm_train.sh CONFIG [ARGUMENTS OF tools/train.py]
# Before the script's name, sbatch takes other values of the lines below, such as
# --nodes=4. A task is a GPU's: its data workers, decoding threads and itself.
# PYTHON, MASTER_PORT (drawn) and SRUN_ARGS: environment. docs/interruptions.md
#SBATCH --job-name=cyborgs
#SBATCH --nodes=1
#SBATCH --gres=gpu:8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail
[ $# -ge 1 ] && [ -n "${SLURM_JOB_ID:-}" ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
CONFIG=$1
# Two trainings on one node must not meet at mmengine's 29500; below the ports
# that the system itself gives out.
export MASTER_PORT=${MASTER_PORT:-$((10000 + RANDOM % 20000))}

# The first rank to end, having saved, must not end those that still save. sbatch
# runs a copy of this script, so that its own folder leads nowhere.
# shellcheck disable=SC2086
srun --kill-on-bad-exit=0 ${SRUN_ARGS:-} "${PYTHON:-python}" -u \
    -m cyborgs_plugin train "$CONFIG" --launcher slurm --resume "${@:2}"
code=$?
if [ "$code" -eq 75 ]; then  # interrupted and saved: try again
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
