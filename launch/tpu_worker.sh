#!/usr/bin/env bash
# Runs on a TPU VM, in the clone: `install` makes .venv, `run ID FLAG...`
# trains. tpu_vm.sh calls it on every worker. With --dry_run as the first
# argument, it prints its commands.
#
# The run does not depend on the ssh connection: it is started once per ID, in
# its own session. A later call with the same ID, or during the run, follows the
# log and exits with the run's status.
#
# Checked on 2026-11-24 against Google Cloud's "TPU software versions" (images
# of Ubuntu; python3 is 3.10 in 22.04) and the help of uv 0.13.9. Never run on a
# TPU VM.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dry_run=''
[[ ${1-} == --dry_run ]] && dry_run=1 && shift

perform() {
  if [[ $dry_run ]]; then
    printf '%s\n' "$*"
  else
    "$@"
  fi
}

# Prints a Python 3.11 or later with venv: the machine's, or one that uv
# installs without root.
find_python() {
  local name
  for name in python3.11 python3 python3.12 python3.13; do
    if "$name" -c 'import ensurepip, sys, venv
sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
      echo "$name"
      return
    fi
  done
  python3 -m pip install --quiet --user uv >&2
  python3 -m uv python install --quiet 3.11 >&2
  python3 -m uv python find --managed-python 3.11
}

install() {
  local python='PYTHON_3.11_OR_LATER'
  if [[ $dry_run ]]; then
    echo '# if python3 is older than 3.11:'
    echo 'python3 -m pip install --quiet --user uv'
    echo 'python3 -m uv python install --quiet 3.11'
  else
    python="$(find_python)"
  fi
  if [[ $dry_run ]] || ! command -v make > /dev/null; then
    [[ $dry_run ]] && echo '# if there is no make:'
    perform sudo apt-get update -qq
    perform sudo apt-get install -qq -y make
  fi
  [[ $dry_run ]] && echo '# always:'
  perform make venv EXTRAS=tpu PYTHON="$python"
}

lives() {
  [[ -e runs/launch.pid ]] && kill -0 "$(cat runs/launch.pid)" 2> /dev/null
}

run() {
  local id="$1" status=0
  shift
  local command=("${TPU_WORKER_PYTHON:-.venv/bin/python}" -m alexnet_jax.main
    "$@")
  if [[ $dry_run ]]; then
    echo "${command[*]}"
    return
  fi
  mkdir -p runs
  if lives; then
    echo 'launch: a run is in progress: following it'
  elif [[ "$(cat runs/launch.id 2> /dev/null)" != "$id" ]]; then
    rm -f runs/launch.status
    echo "$id" > runs/launch.id
    # Created here, since `tail` may start before the run.
    : > runs/launch.log
    # The trap keeps the shell alive until the command, which gets the same
    # SIGTERM at the machine's shutdown, has saved a checkpoint; the command
    # does not inherit the trap.
    # shellcheck disable=SC2016
    setsid nohup bash -c 'trap : TERM
      "$@"
      echo $? > runs/launch.status' bash "${command[@]}" \
      >> runs/launch.log 2>&1 < /dev/null &
    echo $! > runs/launch.pid
  fi
  tail -n 200 -f --pid="$(cat runs/launch.pid)" runs/launch.log
  status="$(cat runs/launch.status 2> /dev/null)" || status=137
  return "$status"
}

"$@"
