#!/usr/bin/env bash
# Trains the networks of the paper's claims, each with three seeds, most telling
# first, and copies each run into results/ as it ends.
#
#   benchmarks/paper_runs.sh [MINUTES [JOBS [ARGUMENT...]]]
#
# MINUTES: when to stop (default: 1440). Runs that are not finished then are
#   saved: the same command resumes them.
# JOBS: runs at a time (default: 1). A data center's GPU takes about ten: the
#   input limits each.
# ARGUMENT: for every run, such as --config.data.data_dir=DIR.
set -euo pipefail
cd "$(dirname "$0")/.."
minutes="${1:-1440}" jobs="${2:-1}"
shift "$(($# < 2 ? $# : 2))"

list() {
  for name in base no_crops no_lrn no_overlap no_lighting one_column no_groups \
    tanh no_dropout; do
    printf '%s\n' "$name 0" "$name 1" "$name 2"
    # The paper's protocol at full size.
    [ "$name" != base ] || echo 'full 0'
  done
}

# Copies what the report reads.
keep() { # WORKDIR RESULTS
  mkdir -p "$2"
  cp "$1/config.json" "$1/results.json" "$1/metrics.jsonl" "$2"
  [ ! -e "$1/conv1.png" ] || cp "$1/conv1.png" "$2"
}

# Runs a command until the time is up; then the run saves itself and ends.
within_time() {
  timeout --kill-after=120 "$((END > $(date +%s) ? END - $(date +%s) : 1))" "$@"
}

one() { # NAME SEED ARGUMENT...
  name="$1" seed="$2"
  shift 2
  run="imagenette127-$name" config="paper/$name.py:imagenette127"
  [ "$name" != full ] || run=imagenette227-base config=paper/base.py:imagenette227
  workdir="runs/$run/$seed"
  mkdir -p "$workdir"
  [ "$(date +%s)" -lt "$END" ] || return 0
  [ -e "$workdir/results.json" ] || within_time "$PYTHON" -u \
    -m alexnet_jax.main --config="configs/$config" --config.seed="$seed" \
    --workdir="$workdir" "$@" >> "$workdir.log" 2>&1 || failed "$workdir"
  [ -e "$workdir/results.json" ] || return 0
  keep "$workdir" "results/$run/$seed"
  if [ "$name" = base ]; then
    # An evaluation overwrites results.json.
    crops="runs/imagenette127-ten_crops/$seed"
    if [ ! -e "$crops" ]; then
      rm -rf "$crops.new"
      mkdir -p "$crops.new"
      cp -r "$workdir/." "$crops.new"
      within_time "$PYTHON" -m alexnet_jax.main --mode=eval \
        --config.eval.step=latest --config.eval.crops=10 \
        --workdir="$crops.new" "$@" >> "$crops.log" 2>&1 || failed "$crops"
      mv "$crops.new" "$crops"
    fi
    keep "$crops" "results/imagenette127-ten_crops/$seed"
  fi
  echo "$run/$seed"
}

failed() { # WORKDIR; of the command before
  local status=$?
  [ "$status" != 124 ] || exit 0 # The time is up.
  echo "$1: status $status, see $1.log" >&2
  exit 1
}

export -f one keep failed within_time
export END="$(($(date +%s) + 60 * minutes))"
export PYTHON="${PYTHON:-.venv/bin/python}"
# Each run takes its part of a GPU's memory.
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-$(
  awk "BEGIN { print 0.9 / $jobs }"
)}"
# shellcheck disable=SC2016
list | xargs -P "$jobs" -L 1 \
  bash -euc 'one "${@: -2}" "${@:1:$#-2}"' bash "$@"
