#!/usr/bin/env bash
# Trains on a TPU slice of a GKE cluster, as a JobSet.
#
#   launch/gke.sh COMMAND --name=NAME [FLAG...] [-- FLAG...]
#
#   apply    starts the run (needs --topology, --image, --workdir)
#   logs     follows the logs of all pods until they end
#   status   shows the JobSet and its pods
#   delete   deletes the JobSet; its pods get SIGTERM and save a checkpoint
#
#   --topology=v5e:4x4          the slice, as in `alexnet_jax.preflight`
#   --image=HOST/PROJECT/IMAGE  an image built with launch/Dockerfile
#   --workdir=gs://BUCKET/DIR   the run's workdir; all pods must reach it
#   --config=configs/imagenet.py
#   --namespace=default
#   --spot                      uses Spot VMs only
#   --max_restarts=5            restarts after failures, preemptions not counted
#   --dry_run                   prints all commands and runs none
#   Flags after -- are those of alexnet_jax.main: -- --config.num_epochs=10
#
# The cluster restarts the run (gke/jobset.yaml). Applying it again changes
# nothing: delete it first.
#
# Checked on 2026-11-24: see gke/*.yaml. Never run on a cluster.

set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=launch/common.sh
source "$here/common.sh"

usage='usage: launch/gke.sh apply|logs|status|delete --name=NAME'
usage+=' [flags; see the top of the file]'
name='' topology='' image='' workdir='' spot='' dry_run=''
config=configs/imagenet.py namespace=default max_restarts=5

read_flags() {
  command="${1-}"
  [[ " apply logs status delete " == *" $command "* && $command ]] ||
    die "$usage"
  shift
  while (($#)); do
    case "$1" in
      --name=*) name="${1#*=}" ;;
      --topology=*) topology="${1#*=}" ;;
      --image=*) image="${1#*=}" ;;
      --workdir=*) workdir="${1#*=}" ;;
      --config=*) config="${1#*=}" ;;
      --namespace=*) namespace="${1#*=}" ;;
      --max_restarts=*) max_restarts="${1#*=}" ;;
      --spot) spot=1 ;;
      --dry_run) dry_run=1 ;;
      --) shift && break ;;
      *) die "unknown flag $1: flags of alexnet_jax.main follow --; $usage" ;;
    esac
    shift
  done
  main_flags=("$@")
  local dns='^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$'
  [[ $name =~ $dns && $namespace =~ $dns ]] || die \
    "--name=$name --namespace=$namespace: use up to 40 lower-case letters," \
    "digits and hyphens; $usage"
  if [[ $command == apply ]]; then
    read_topology "$topology"
    [[ $image =~ ^[A-Za-z0-9][A-Za-z0-9._:/@-]*$ ]] ||
      die "--image=$image: must be an image that the cluster can pull"
    [[ $workdir == gs://?* ]] ||
      die "--workdir=$workdir: must be gs://BUCKET/DIR, to outlive the pods"
    [[ $max_restarts =~ ^[0-9]+$ ]] ||
      die '--max_restarts must be a whole number'
  fi
  [[ $dry_run ]] || command -v kubectl > /dev/null || die \
    'kubectl is not installed: see kubernetes.io/docs/tasks/tools;' \
    '--dry_run works without it'
}

# Prints strings as a JSON list, which is also YAML.
json_list() {
  local word text=''
  for word; do
    [[ $word != *[[:cntrl:]]* ]] || die "flag ${word@Q} has a control character"
    word="${word//\\/\\\\}"
    word="${word//\"/\\\"}"
    text+=", \"$word\""
  done
  printf '[%s]' "${text#, }"
}

manifest() {
  local flags=("--config=$config" "--workdir=$workdir") text args key
  ((nodes == 1)) || flags+=(--distributed)
  flags+=(${main_flags[@]+"${main_flags[@]}"})
  args="$(json_list "${flags[@]}")" || exit
  text="$(cat "$here/gke/service_account.yaml" && echo --- &&
    cat "$here/gke/jobset.yaml")"
  if [[ ! $spot ]]; then
    text="$(sed '/# --spot$/d' <<< "$text")"
  fi
  local -A values=([NAME]="$name" [NAMESPACE]="$namespace" [NODES]="$nodes"
    [CHIPS]="$chips_per_node" [ACCELERATOR]="$gke_accelerator"
    [SHAPE]="$shape" [IMAGE]="$image" [MAX_RESTARTS]="$max_restarts")
  for key in "${!values[@]}"; do
    text="${text//__${key}__/"${values[$key]}"}"
  done
  # The flags come last: they may contain anything, even __NAME__.
  printf '%s\n' "${text//__ARGS__/"$args"}"
}

apply() {
  local text
  text="$(manifest)" || exit
  if [[ $dry_run ]]; then
    printf "kubectl apply --filename=- <<'MANIFEST'\n%s\nMANIFEST\n" "$text"
  else
    kubectl apply --filename=- <<< "$text"
  fi
}

logs() {
  perform kubectl logs "--namespace=$namespace" \
    "--selector=jobset.sigs.k8s.io/jobset-name=$name" --follow --prefix \
    --tail=-1 --max-log-requests=64
}

status() {
  perform kubectl get jobsets.jobset.x-k8s.io "$name" \
    "--namespace=$namespace" --output=wide
  perform kubectl get pods "--namespace=$namespace" \
    "--selector=jobset.sigs.k8s.io/jobset-name=$name" --output=wide
}

delete() {
  perform kubectl delete jobsets.jobset.x-k8s.io "$name" \
    "--namespace=$namespace"
}

read_flags "$@"
"$command"
