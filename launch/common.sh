# shellcheck shell=bash disable=SC2034 # Variables are used by other files.
# Functions of tpu_vm.sh and gke.sh, which source this file.
#
# Slices are named as in `python -m alexnet_jax.preflight --topology=v5e:4x4`.
# Checked on 2026-11-24 against Google Cloud's "TPU configurations", "TPU v6e",
# "TPU types and topologies" (a number of v4 cores means the shape closest to a
# cube), "TPU software versions", and AI-Hypercomputer/xpk's
# system_characteristics.py (shapes, GKE's labels, four chips per node).

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || {
  echo "launch: bash is $BASH_VERSION: version 4.4 or later is needed" >&2
  exit 2
}

SHAPES_2D='1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16'
SHAPES_3D='2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8'

say() {
  printf 'launch: %s\n' "$*" >&2
}

# Exits with the status of a usage error.
die() {
  say "$@"
  exit 2
}

# Prints a command so that it can be pasted into a shell.
quoted() {
  local word text=''
  for word; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="${word@Q}"
    text+=" $word"
  done
  printf '%s' "${text# }"
}

# Runs a command, or prints it with --dry_run.
perform() {
  if [[ $dry_run ]]; then
    printf '%s\n' "$(quoted "$@")"
  else
    "$@"
  fi
}

# Sets the variables that follow from --topology=GENERATION:SHAPE.
read_topology() {
  local topology="$1" generation="${1%%:*}" known
  shape="${topology#*:}"
  case "$generation" in
    v5e | v6e) known="$SHAPES_2D" cores=1 ;;
    v4 | v5p) known="$SHAPES_3D" cores=2 ;; # Types have numbers of cores.
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
  # A TPU VM has four chips; a v5e or v6e slice of eight chips is one VM.
  vm_hosts=$((chips > 4 ? chips / 4 : 1))
  [[ $cores == 1 && $chips == 8 ]] && vm_hosts=1
  # GKE's machine types end in -4t, and -1t for a single chip.
  chips_per_node=$((chips < 4 ? chips : 4))
  nodes=$((chips / chips_per_node))
}
