#!/usr/bin/env bash
# Trains on Cloud TPU VMs, through a queued resource.
#
#   launch/tpu_vm.sh COMMAND --name=NAME --zone=ZONE [FLAG...] [-- FLAG...]
#
#   create   requests the slice (needs --topology)
#   wait     waits until the slice is active
#   install  copies this clone's HEAD to every worker and makes its .venv
#   run      trains on every worker (needs --topology and --workdir)
#   up       does all of these, again after each preemption, then deletes
#   delete   deletes the slice
#
#   --topology=v5e:4x4          the slice, as in `alexnet_jax.preflight`
#   --workdir=gs://BUCKET/DIR   the run's workdir; all workers must reach it
#   --config=configs/imagenet.py
#   --project=ID                by default gcloud's project
#   --spot                      requests a slice that may be preempted
#   --max_restarts=5            restarts in a row without a preemption
#   --poll_seconds=30
#   --dry_run                   prints all commands and runs none
#   Flags after -- are those of alexnet_jax.main: -- --config.num_epochs=10
#
# `run` exits with the status of alexnet_jax.main; if several workers fail,
# gcloud returns the status of the first. `up` stops at 0, 2 and 3.
#
# Checked on 2026-11-24 against Google Cloud's "gcloud compute tpus
# queued-resources create", "... delete", "gcloud compute tpus tpu-vm ssh",
# "Manage queued resources", "TPU software versions"; and, for statuses and
# retries, gcloud's command_lib/compute/tpus/tpu_vm/ssh.py. The parser of gcloud
# 528.0.0 accepts each command; `tpu-vm describe` was not tried. Never run on a
# TPU.

set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=launch/common.sh
source "$here/common.sh"
cd "$here/.."

usage='usage: launch/tpu_vm.sh create|wait|install|run|up|delete'
usage+=' --name=NAME --zone=ZONE [flags; see the top of the file]'
name='' zone='' topology='' workdir='' project='' spot='' dry_run=''
config=configs/imagenet.py max_restarts=5 poll_seconds=30

read_flags() {
  command="${1-}"
  [[ " create wait install run up delete " == *" $command "* && $command ]] ||
    die "$usage"
  shift
  while (($#)); do
    case "$1" in
      --name=*) name="${1#*=}" ;;
      --zone=*) zone="${1#*=}" ;;
      --topology=*) topology="${1#*=}" ;;
      --workdir=*) workdir="${1#*=}" ;;
      --config=*) config="${1#*=}" ;;
      --project=*) project="${1#*=}" ;;
      --max_restarts=*) max_restarts="${1#*=}" ;;
      --poll_seconds=*) poll_seconds="${1#*=}" ;;
      --spot) spot=1 ;;
      --dry_run) dry_run=1 ;;
      --) shift && break ;;
      *) die "unknown flag $1: flags of alexnet_jax.main follow --; $usage" ;;
    esac
    shift
  done
  main_flags=("$@")
  [[ $name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] ||
    die "--name=$name: use lower-case letters, digits and hyphens; $usage"
  [[ $zone ]] || die "--zone=ZONE is missing; $usage"
  [[ $max_restarts =~ ^[0-9]+$ && $poll_seconds =~ ^[0-9]+$ ]] ||
    die '--max_restarts and --poll_seconds must be whole numbers'
  case "$command" in
    create | run | up) read_topology "$topology" ;;
  esac
  case "$command" in
    run | up)
      [[ $workdir == gs://?* ]] ||
        die "--workdir=$workdir: must be gs://BUCKET/DIR, to outlive the VMs"
      ;;
  esac
  where=("--zone=$zone")
  [[ $project ]] && where+=("--project=$project")
  [[ $dry_run ]] || command -v gcloud > /dev/null || die \
    'gcloud is not installed: see cloud.google.com/sdk/docs/install;' \
    '--dry_run works without it'
}

note() {
  [[ ! $dry_run ]] || echo "# $*"
}

create() {
  note 'create'
  perform gcloud compute tpus queued-resources create "$name" \
    "--node-id=$name" "${where[@]}" "--accelerator-type=$accelerator_type" \
    "--runtime-version=$runtime_version" ${spot:+--spot}
}

describe() {
  perform gcloud compute tpus queued-resources describe "$name" \
    "${where[@]}" '--format=value(state.state)'
}

describe_node() {
  perform gcloud compute tpus tpu-vm describe "$name" "${where[@]}" \
    '--format=value(state)'
}

# Returns 1 if the request failed, 4 if the slice was preempted.
wait_for_it() {
  local state='' before='' unknown=0
  note "wait: every $poll_seconds s until it prints ACTIVE"
  if [[ $dry_run ]]; then
    describe
    return
  fi
  while true; do
    state="$(describe)" || state=UNKNOWN # gcloud has printed why.
    [[ $state == "$before" ]] || say "$name is $state"
    before="$state"
    case "$state" in
      ACTIVE) return ;;
      UNKNOWN) ((++unknown < 10)) || return 1 ;;
      FAILED)
        say "for the reason, run $(quoted gcloud compute tpus \
          queued-resources describe "$name" "${where[@]}"); then delete $name"
        return 1
        ;;
      SUSPENDING | SUSPENDED) return 4 ;;
    esac
    sleep "$poll_seconds"
  done
}

# If gcloud fails, the slice counts as alive: it must not be deleted by mistake.
preempted() {
  case "$(describe)" in
    SUSPENDING | SUSPENDED | FAILED) return ;;
  esac
  case "$(describe_node)" in
    PREEMPTED | TERMINATED) return ;;
  esac
  return 1
}

on_every_worker() {
  perform gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all \
    "--command=$1"
}

install() {
  local archive="runs/$name.tar.gz"
  note 'install'
  perform mkdir -p runs &&
    perform git archive --prefix=alexnet_jax/ "--output=$archive" HEAD &&
    perform gcloud compute tpus tpu-vm scp "$archive" "$name:" \
      "${where[@]}" --worker=all &&
    on_every_worker "tar -xzf $name.tar.gz && \
bash alexnet_jax/launch/tpu_worker.sh install" &&
    on_the_worker install
}

# If the ssh connection drops, gcloud runs the command again; the ID prevents a
# second run.
run() {
  local flags=("--config=$config" "--workdir=$workdir")
  ((vm_hosts == 1)) || flags+=(--distributed)
  flags+=(${main_flags[@]+"${main_flags[@]}"})
  note 'run'
  on_every_worker "bash alexnet_jax/launch/tpu_worker.sh run \
$(date +%s) $(quoted "${flags[@]}")" && on_the_worker run ID "${flags[@]}"
}

# With --dry_run, prints the commands of tpu_worker.sh.
on_the_worker() {
  [[ ! $dry_run ]] || {
    note '  on each worker:'
    bash "$here/tpu_worker.sh" --dry_run "$@" | sed 's/^/#   /'
  }
}

delete() {
  note 'delete'
  perform gcloud compute tpus queued-resources delete "$name" "${where[@]}" \
    --force --quiet
}

up() {
  local failures=0 status there=''
  if [[ $dry_run ]]; then
    create && wait_for_it && install && run
    note 'if the status is not 0, 2 or 3: was it preempted?'
    describe && describe_node
    note 'if done, or if preempted (then again from the start):'
    delete
    return
  fi
  # An existing slice is used: `up` continues an `up` that was stopped.
  ! describe > /dev/null 2>&1 || there=1
  while true; do
    [[ $there ]] || create || return 1
    there=1
    status=0
    wait_for_it || status=$?
    if ((status == 0)); then
      install || status=1
      ((status)) || run || status=$?
    elif ((status == 1)); then
      return 1
    fi
    case "$status" in
      0)
        delete
        return
        ;;
      2 | 3)
        say "status $status: a restart would fail again. $name is still" \
          'billed: fix the problem and run up again, or delete it'
        return "$status"
        ;;
    esac
    say "the run ended with status $status"
    sleep "$poll_seconds" # A preemption is reported with a delay.
    if preempted; then
      say "$name was preempted: deleting it and starting again"
      delete || return 1
      there='' failures=0
    elif ((++failures > max_restarts)); then
      say "$failures failures in a row without a preemption: giving up." \
        "$name is still billed: delete it"
      return "$status"
    fi
  done
}

read_flags "$@"
case "$command" in
  wait) wait_for_it ;;
  *) "$command" ;;
esac
