#!/usr/bin/env bash
# Puts turnhost into /usr/local/bin (or $PREFIX/bin). Run as often as you like; needs no HOME and no PATH.
#
# The binary is the first of: $TURNHOST_BINARY, bin/turnhost beside this script, a release build with cargo. With
# TURNHOST_SHA256 set, the binary must have that checksum.
set -euo pipefail
export PATH="${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target="${PREFIX:-/usr/local}/bin/turnhost"

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

binary="${TURNHOST_BINARY:-}"
if [[ -z $binary && -f $here/bin/turnhost ]]; then
  binary=$here/bin/turnhost
fi
if [[ -z $binary ]]; then
  command -v cargo >/dev/null || fail "no binary: set TURNHOST_BINARY, put one at bin/turnhost, or install cargo"
  say "building with cargo"
  cargo build --release --locked --manifest-path "$here/Cargo.toml"
  binary=${CARGO_TARGET_DIR:-$here/target}/release/turnhost
fi
[[ -f $binary ]] || fail "$binary is not there"

if [[ -n ${TURNHOST_SHA256:-} ]]; then
  printf '%s  %s\n' "$TURNHOST_SHA256" "$binary" | sha256sum -c - >/dev/null 2>&1 || fail "$binary has another checksum than TURNHOST_SHA256"
fi
if [[ -f $target ]] && cmp -s "$binary" "$target"; then
  say "$target is up to date"
else
  install -D -m 0755 "$binary" "$target"
  say "installed $target"
fi
"$target" --version
