#!/usr/bin/env bash
# Runs the tests on the newest versions, those of requirements-latest.txt.
#
#   tests/latest.sh [PYTHON]
#
# Uses PYTHON, python3.13 or pyenv's 3.13. Where there is none, root on Debian
# gets one: Debian trixie in a folder of its own, where the tests then run.
set -euo pipefail
cd "$(dirname "$0")/.."

given="${1:-}"
[ -n "$given" ] || set -- python3.13 ~/.pyenv/versions/3.13*/bin/python3.13
for python in "$@"; do
  if "$python" -c 'import ensurepip, venv' 2> /dev/null; then
    test -x .venv-latest/bin/python || "$python" -m venv .venv-latest
    .venv-latest/bin/pip install -q -r requirements-latest.txt
    .venv-latest/bin/pip install -q --no-deps -e .
    exec .venv-latest/bin/python -m pytest -q -n 2 --dist loadfile \
      --no-loadscope-reorder -m 'not long'
  fi
done

no_python() {
  echo "make test-latest: no Python 3.13 with venv: $1." \
    'Install one, or give make test-latest PYTHON_LATEST=PATH' >&2
  exit 1
}
debian="${TMPDIR:-/tmp}/alexnet_jax-trixie"
[ -z "$given" ] || no_python "$given is none"
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
  no_python 'only root on Debian gets one here'
fi
command -v debootstrap > /dev/null \
  || { apt-get update -q && apt-get install -q -y debootstrap; } \
  || no_python 'debootstrap cannot be installed'
[ -e "$debian/complete" ] || {
  rm -rf "$debian"
  debootstrap --variant=minbase \
    --include=python3,python3-venv,make,git,procps,ca-certificates \
    trixie "$debian" && touch "$debian/complete"
} || no_python 'debootstrap failed'

# pip's settings, and the machine's certificates.
for path in /etc/resolv.conf /etc/hosts /etc/pip.conf ~/.config/pip ~/.pip \
  /etc/ssl/certs /usr/local/share/ca-certificates; do
  if [ -e "$path" ]; then
    mkdir -p "$debian$(dirname "$path")"
    rm -rf "${debian:?}$path" # Its links would lead out of the folder.
    cp -rL "$path" "$debian$(dirname "$path")"
  fi
done
# Mounts of this namespace only: they end with the tests.
# shellcheck disable=SC2016
exec unshare --mount bash -c '
  for path in /proc /sys /dev "${@:2}"; do
    mkdir -p "$1$path" && mount --rbind "$path" "$1$path" || exit
  done
  exec chroot "$1" "$2/tests/latest.sh" python3.13
' bash "$debian" "$PWD" ${TFDS_DATA_DIR:+"$TFDS_DATA_DIR"}
