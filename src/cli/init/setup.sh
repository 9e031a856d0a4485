#!/usr/bin/env bash
# Puts turnhost into /usr/local/bin (or $PREFIX/bin) while the template is built. Run it as often as you like; it needs no
# HOME and no PATH.
#
# The binary is the first of: $TURNHOST_BINARY; bin/turnhost in this bundle; a download from $TURNHOST_URL, which needs
# $TURNHOST_SHA256; a turnhost that is installed already. Each may be a release's tarball, too. With TURNHOST_SHA256 set, it
# must have that checksum.
set -euo pipefail
export PATH="${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target="${PREFIX:-/usr/local}/bin/turnhost"

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

binary="${TURNHOST_BINARY:-}"
if [[ -z $binary && -f $here/bin/turnhost ]]; then
  binary=$here/bin/turnhost
elif [[ -z $binary && -n ${TURNHOST_URL:-} ]]; then
  [[ -n ${TURNHOST_SHA256:-} ]] || fail "a download needs TURNHOST_SHA256"
  binary=$folder/download
  curl -fsSL --retry 5 -o "$binary" "$TURNHOST_URL" || fail "$TURNHOST_URL cannot be fetched"
elif [[ -z $binary ]]; then
  binary=$(command -v turnhost) || fail 'no binary: put one at bin/turnhost (cp "$(command -v turnhost)" bin/), or set TURNHOST_BINARY or TURNHOST_URL'
fi
[[ -f $binary ]] || fail "$binary is not there"

if [[ -n ${TURNHOST_SHA256:-} ]]; then
  printf '%s  %s\n' "$TURNHOST_SHA256" "$binary" | sha256sum -c - >/dev/null 2>&1 || fail "$binary has another checksum than TURNHOST_SHA256"
fi
if tar -xzf "$binary" -C "$folder" turnhost 2>/dev/null; then
  binary=$folder/turnhost
fi
if [[ -f $target ]] && cmp -s "$binary" "$target"; then
  say "$target is up to date"
else
  install -D -m 0755 "$binary" "$target"
  say "installed $target"
fi
"$target" --version
