#!/usr/bin/env bash
# Trains on a TPU slice of a GKE cluster, as a JobSet.
#
#   launch/gke.sh COMMAND --name=NAME [FLAG...] [-- FLAG...]
#
#   apply    fills in gke/*.yaml and applies it (--topology, --image, --workdir)
#   logs     of all pods, until they end        (kubectl logs --follow)
#   status   of the JobSet and its pods
#   delete   the JobSet: its pods get SIGTERM, and save
#
#   --topology=v5e:4x4          as `python -m alexnet_jax.preflight` has it
#   --image=HOST/PROJECT/IMAGE  made by launch/Dockerfile
#   --workdir=gs://BUCKET/DIR   of the run; all pods must reach it
#   --config=configs/imagenet.py
#   --namespace=default
#   --spot                      only nodes that are Spot VMs
#   --max_restarts=5            of what is neither a preemption nor hopeless
#   --dry_run                   prints every command, and runs none
#   What follows -- goes to alexnet_jax.main: -- --config.num_epochs=10
#
# The cluster restarts the run by itself, as gke/jobset.yaml says. Applying it
# again changes nothing: delete first.
#
# Checked on 2026-11-24: see gke/*.yaml. Never run on a cluster.

set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=launch/common.sh
source "$here/common.sh"

usage='usage: launch/gke.sh apply|logs|status|delete --name=NAME'
usage+=' [flags; see the head of the file]'
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
      *) die "unknown flag $1; flags of alexnet_jax.main follow --; $usage" ;;
    esac
    shift
  done
  main_flags=("$@")
  local dns='^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$'
  [[ $name =~ $dns && $namespace =~ $dns ]] || die \
    "--name=$name --namespace=$namespace: give lower-case letters, digits and" \
    "hyphens, at most 40; $usage"
  if [[ $command == apply ]]; then
    read_topology "$topology"
    [[ $image =~ ^[A-Za-z0-9][A-Za-z0-9._:/@-]*$ ]] ||
      die "--image=$image: give an image that the cluster can pull"
    [[ $workdir == gs://?* ]] ||
      die "--workdir=$workdir: give gs://BUCKET/DIR, which outlives the pods"
    [[ $max_restarts =~ ^[0-9]+$ ]] || die '--max_restarts is a whole number'
  fi
  [[ $dry_run ]] || command -v kubectl > /dev/null || die \
    'kubectl is not installed: see kubernetes.io/docs/tasks/tools;' \
    '--dry_run needs none'
}

# A JSON list of strings, which is YAML too.
json_list() {
  local word text=''
  for word; do
    [[ $word != *[[:cntrl:]]* ]] || die "a control character in ${word@Q}"
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
  # Last: a flag may hold anything.
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
