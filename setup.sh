#!/usr/bin/env bash
# Puts turnhost into /usr/local/bin (or $PREFIX/bin), and the bundle's handlers into /usr/local/share/turnhost/handlers, where
# the command of dari.yml looks for them from whatever folder it is started in. Run as often as you like; needs no HOME and
# no PATH.
#
# The program is the first of: the file $TURNHOST_BINARY, what is at $TURNHOST_URL, bin/turnhost beside this script, a release
# build with cargo. The first two may be a release's tarball. $TURNHOST_SHA256 is the checksum of the file as it is given; a
# download must have one.
set -euo pipefail
export PATH="${PATH:+$PATH:}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
prefix=${PREFIX:-/usr/local}
target=$prefix/bin/turnhost
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }
checksum() { sha256sum <"$1" | cut -d ' ' -f 1; }

download() {
  [[ -n ${TURNHOST_SHA256:-} ]] || fail "TURNHOST_URL needs TURNHOST_SHA256: what comes over the network is checked"
  say "downloading $1"
  if command -v curl >/dev/null; then
    curl -fsSL --retry 5 --max-time 600 -o "$2" "$1" || fail "$1 could not be downloaded"
  elif command -v wget >/dev/null; then
    wget -q -T 60 -O "$2" "$1" || fail "$1 could not be downloaded"
  else
    fail "TURNHOST_URL needs curl or wget"
  fi
}

binary=${TURNHOST_BINARY:-}
if [[ -z $binary && -n ${TURNHOST_URL:-} ]]; then
  binary=$work/download
  download "$TURNHOST_URL" "$binary"
fi
if [[ -z $binary && -f $here/bin/turnhost ]]; then
  binary=$here/bin/turnhost
fi
if [[ -z $binary ]]; then
  command -v cargo >/dev/null || fail "no program: set TURNHOST_BINARY or TURNHOST_URL, put one at bin/turnhost, or install cargo"
  say "building with cargo"
  cargo build --release --locked --manifest-path "$here/Cargo.toml"
  binary=${CARGO_TARGET_DIR:-$here/target}/release/turnhost
fi
[[ -f $binary ]] || fail "$binary is not there"
if [[ -n ${TURNHOST_SHA256:-} && $(checksum "$binary") != "$TURNHOST_SHA256" ]]; then
  fail "${TURNHOST_BINARY:-${TURNHOST_URL:-$binary}} has another checksum than TURNHOST_SHA256"
fi
# A tarball begins as everything that gzip has packed.
if [[ $(od -An -tx1 -N2 "$binary" | tr -d ' ') == 1f8b ]]; then
  tar -xzf "$binary" -C "$work" turnhost || fail "there is no turnhost in $binary"
  binary=$work/turnhost
fi

if [[ -f $target && $(checksum "$binary") == "$(checksum "$target")" ]]; then
  say "$target is up to date"
else
  install -D -m 0755 "$binary" "$target"
  say "installed $target"
fi
if [[ -d $here/handlers ]]; then
  mkdir -p "$prefix/share/turnhost/handlers"
  cp -R "$here/handlers/." "$prefix/share/turnhost/handlers"
fi
"$target" --version
