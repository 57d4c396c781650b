#!/usr/bin/env bash
# Trains on a SLURM cluster, with one process per GPU. Submit it from a clone
# that all nodes share, after `make venv EXTRAS=cuda`:
#
#   sbatch [OPTION...] launch/slurm.sh --config=configs/imagenet.py \
#     --workdir=/shared/runs/imagenet [FLAG of alexnet_jax.main...]
#
# Options of sbatch precede the script and override the lines below.
# `bash launch/slurm.sh --dry_run FLAG...` prints all commands and runs none.
#
# Restarts: SLURM requeues a preempted job (--requeue). This script requeues a
# job that saved a checkpoint at the end of its time (status 143) or lost a
# process. It does not requeue after a usage error (2), an error of a training
# guard or storage (3), or scancel, nor more than MAX_RESTARTS times in all.
#
# Checked on 2026-11-24 against SchedMD's srun(1) ("Return value"), sbatch(1)
# and scontrol(1), "Preemption", and JAX 0.10.2's slurm_cluster.py. Never run on
# a cluster: tests/test_launch.py starts its processes instead of SLURM.
#
#SBATCH --job-name=alexnet
#SBATCH --output=alexnet-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=1
# One task per GPU. Whether a task sees all GPUs of the node or, as with
# --gpus-per-task, its own alone, it takes the right ones.
#SBATCH --ntasks-per-node=2
#SBATCH --gpus-per-node=2
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
# Sends SIGTERM to the processes, not this script, 120 to 180 s before the end.
#SBATCH --signal=TERM@120

set -euo pipefail

MAX_RESTARTS="${MAX_RESTARTS:-50}"
PYTHON="${PYTHON:-.venv/bin/python}"

dry_run=''
if [[ ${1-} == --dry_run ]]; then
  dry_run=1
  shift
fi

# srun returns the highest status of all tasks. If a task fails,
# --kill-on-bad-exit ends the others with status 137 or 143, which would hide a
# 2 or 3; so a task adds 240 to these two. The trap keeps the shell alive until
# its command, which gets the same SIGTERM, has saved a checkpoint; the command
# does not inherit the trap.
# shellcheck disable=SC2016
task='trap : TERM INT; "$@"; status=$?; '
# shellcheck disable=SC2016
task+='case $status in 2 | 3) exit $((status + 240)) ;; esac; exit $status'
step=(srun --kill-on-bad-exit=1 bash -c "$task" task "$PYTHON"
  -m alexnet_jax.main --distributed "$@")
# `Incomplete` excludes a job that was cancelled: it must not restart.
requeue=(scontrol requeue Incomplete "${SLURM_JOB_ID:-JOB}")

# As in common.sh, which is out of reach: sbatch copies this file elsewhere.
quoted() {
  local word text=''
  for word; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="${word@Q}"
    text+=" $word"
  done
  printf '%s\n' "${text# }"
}

if [[ $dry_run ]]; then
  quoted sbatch launch/slurm.sh "$@"
  echo '# in the job:'
  quoted "${step[@]}"
  echo "# if its status is not 0, 2 or 3, at most $MAX_RESTARTS times:"
  quoted "${requeue[@]}"
  exit
fi
if [[ -z ${SLURM_JOB_ID-} ]]; then
  echo 'launch: this is not a SLURM job: submit it with sbatch' \
    'launch/slurm.sh ...; --dry_run prints its commands' >&2
  exit 2
fi
if ! command -v "$PYTHON" > /dev/null; then
  echo "launch: no $PYTHON in $PWD: submit from the clone after" \
    'make venv EXTRAS=cuda, or set PYTHON' >&2
  exit 2
fi

trap : TERM INT
status=0
"${step[@]}" || status=$?
case "$status" in
  0) exit ;;
  242 | 243)
    status=$((status - 240))
    echo "launch: status $status: not requeued, as it would fail again" >&2
    exit "$status"
    ;;
esac
restarts="${SLURM_RESTART_COUNT:-0}"
if ((restarts >= MAX_RESTARTS)); then
  echo "launch: status $status after $restarts restarts: not requeued" \
    '(MAX_RESTARTS)' >&2
  exit "$status"
fi
echo "launch: status $status: requeued, restart $((restarts + 1))" >&2
# It may fail if SLURM has already ended or requeued the job.
"${requeue[@]}" || true
exit "$status"
