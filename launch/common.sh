# shellcheck shell=bash disable=SC2034 # What is set here is read elsewhere.
# What tpu_vm.sh and gke.sh share: it is sourced, not run.
#
# Slices are named as in `python -m alexnet_jax.preflight --topology=v5e:4x4`.
# Checked on 2026-11-24 against Google Cloud's "TPU configurations", "TPU v6e",
# "TPU types and topologies" (a number of v4 cores means the shape most like a
# cube), "TPU software versions", and AI-Hypercomputer/xpk's
# system_characteristics.py (shapes, GKE's labels, four chips to a node).

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || {
  echo "launch: bash 4.4 or later is needed, this is $BASH_VERSION" >&2
  exit 2
}

SHAPES_2D='1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16'
SHAPES_3D='2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8'

say() {
  printf 'launch: %s\n' "$*" >&2
}

# Stops with the status of a usage error.
die() {
  say "$@"
  exit 2
}

# A command as it can be pasted into a shell.
quoted() {
  local word text=''
  for word; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="${word@Q}"
    text+=" $word"
  done
  printf '%s' "${text# }"
}

# Runs a command, or with --dry_run prints it.
perform() {
  if [[ $dry_run ]]; then
    printf '%s\n' "$(quoted "$@")"
  else
    "$@"
  fi
}

# Sets what --topology=GENERATION:SHAPE means.
read_topology() {
  local topology="$1" generation="${1%%:*}" known
  shape="${topology#*:}"
  case "$generation" in
    v5e | v6e) known="$SHAPES_2D" cores=1 ;;
    v4 | v5p) known="$SHAPES_3D" cores=2 ;; # Named by their cores.
    *) known='' ;;
  esac
  [[ $topology == *:* && " $known " == *" $shape "* ]] || die \
    "unknown --topology=$topology; known: v5e and v6e: $SHAPES_2D;" \
    "v4 and v5p: $SHAPES_3D; such as --topology=v5e:4x4"
  chips=$((${shape//x/*}))
  case "$generation" in
    v5e)
      accelerator_type="v5litepod-$chips"
      runtime_version=v2-alpha-tpuv5-lite
      gke_accelerator=tpu-v5-lite-podslice
      ;;
    v6e)
      accelerator_type="v6e-$chips"
      runtime_version=v2-alpha-tpuv6e
      gke_accelerator=tpu-v6e-slice
      ;;
    v4)
      accelerator_type="v4-$((chips * cores))"
      runtime_version=tpu-ubuntu2204-base
      gke_accelerator=tpu-v4-podslice
      ;;
    v5p)
      accelerator_type="v5p-$((chips * cores))"
      runtime_version=v2-alpha-tpuv5
      gke_accelerator=tpu-v5p-slice
      ;;
  esac
  # A TPU VM holds four chips; of v5e and v6e, eight where those are all.
  vm_hosts=$((chips > 4 ? chips / 4 : 1))
  [[ $cores == 1 && $chips == 8 ]] && vm_hosts=1
  # GKE's machine types that end in -4t; -1t for a single chip.
  chips_per_node=$((chips < 4 ? chips : 4))
  nodes=$((chips / chips_per_node))
}
