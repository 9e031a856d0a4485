#!/usr/bin/env bash
# Builds the handler and puts it at bin/agent, which goes with the bundle: nothing is compiled in a sandbox.
# For a sandbox the target should be static: rustup target add x86_64-unknown-linux-musl, then
# TARGET=x86_64-unknown-linux-musl ./build.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/handler"
folder=${CARGO_TARGET_DIR:-target}
if [[ -n ${TARGET:-} ]]; then
  cargo build --release --target "$TARGET" "$@"
  folder=$folder/$TARGET
else
  cargo build --release "$@"
fi
install -D -m 0755 "$folder/release/agent" ../bin/agent
echo "built bin/agent"
