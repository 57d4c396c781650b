#!/usr/bin/env bash
# Trains on a SLURM cluster, one process to a GPU. In a clone with .venv
# (`make venv EXTRAS=cuda`) on a file system that all nodes share:
#
#   sbatch [OPTION...] launch/slurm.sh --config=configs/imagenet.py \
#     --workdir=/shared/runs/imagenet [FLAG of alexnet_jax.main...]
#
# Options of sbatch go before the script, and win over the lines below.
# `bash launch/slurm.sh --dry_run FLAG...` prints every command, and runs none.
#
# Restarts: SLURM requeues a preempted job by itself (--requeue). This script
# requeues one that saved and left at the end of its time (status 143), or that
# lost a process; not on a usage error (2), not on a training guard or storage
# (3), not after scancel, and not more than MAX_RESTARTS times in all.
#
# Checked on 2026-11-24 against SchedMD's srun(1) ("Return value"), sbatch(1)
# and scontrol(1), "Preemption", and JAX 0.10.2's slurm_cluster.py. Never run on
# a cluster: tests/test_launch.py starts its processes in SLURM's place.
#
#SBATCH --job-name=alexnet
#SBATCH --output=alexnet-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=1
# A GPU to a task, but all GPUs of the node seen by each: JAX takes the one that
# SLURM_LOCALID says. (--gpus-per-task would hide the others, and it fails.)
#SBATCH --ntasks-per-node=2
#SBATCH --gpus-per-node=2
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
# SIGTERM to the processes, not to this script, 120 to 180 s before the end.
#SBATCH --signal=TERM@120

set -euo pipefail

MAX_RESTARTS="${MAX_RESTARTS:-50}"
PYTHON="${PYTHON:-.venv/bin/python}"

dry_run=''
if [[ ${1-} == --dry_run ]]; then
  dry_run=1
  shift
fi

# srun gives the highest status of all tasks, and --kill-on-bad-exit ends the
# others of a task that failed, with 137 or 143. So 2 and 3 are lifted above
# these on the way. The trap keeps the shell until its command, which gets the
# same SIGTERM, has saved; the command does not inherit it.
# shellcheck disable=SC2016
task='trap : TERM INT; "$@"; status=$?; '
# shellcheck disable=SC2016
task+='case $status in 2 | 3) exit $((status + 240)) ;; esac; exit $status'
step=(srun --kill-on-bad-exit=1 bash -c "$task" task "$PYTHON"
  -m alexnet_jax.main --distributed "$@")
# Only a job that runs: one that was cancelled must stay so.
requeue=(scontrol requeue Incomplete "${SLURM_JOB_ID:-JOB}")

# As in common.sh, from which sbatch copies this file away.
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
  echo "# where it leaves with neither 0, 2 nor 3, $MAX_RESTARTS times at most:"
  quoted "${requeue[@]}"
  exit
fi
if [[ -z ${SLURM_JOB_ID-} ]]; then
  echo 'launch: not within a job: start it by sbatch launch/slurm.sh ...;' \
    '--dry_run prints what it does' >&2
  exit 2
fi
if ! command -v "$PYTHON" > /dev/null; then
  echo "launch: no $PYTHON in $PWD: submit from the clone, after" \
    'make venv EXTRAS=cuda; or set PYTHON' >&2
  exit 2
fi

trap : TERM INT
status=0
"${step[@]}" || status=$?
case "$status" in
  0) exit ;;
  242 | 243)
    status=$((status - 240))
    echo "launch: status $status: the same command would fail again" >&2
    exit "$status"
    ;;
esac
restarts="${SLURM_RESTART_COUNT:-0}"
if ((restarts >= MAX_RESTARTS)); then
  echo "launch: status $status after $restarts restarts (MAX_RESTARTS)" >&2
  exit "$status"
fi
echo "launch: status $status: requeued, restart $((restarts + 1))" >&2
# If SLURM has ended or requeued the job already, there is nothing to do.
"${requeue[@]}" || true
exit "$status"
