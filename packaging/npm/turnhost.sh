#!/bin/sh
# Becomes the program of the package for this machine. Node cannot replace itself by another program, so a launcher in
# JavaScript would stay, with its 40 MB, as long as the server runs; a shell can. Nothing runs at installation, which many
# forbid, and no package manager has to choose between two packages that offer the same command.
case "$(uname -s) $(uname -m)" in
  "Linux x86_64") package=@turnhost/linux-x64 ;;
  "Linux aarch64") package=@turnhost/linux-arm64 ;;
  *) echo "turnhost: there is no build for $(uname -s) on $(uname -m)" >&2; exit 1 ;;
esac
# npm runs commands under a shell of its own, which ends at a signal without passing it on.
[ -n "$npm_command" ] && export TURNHOST_STOP_WITH_PARENT=1
# From the link in .bin to this file, then up, as node looks for packages.
folder=$(readlink -f -- "$0")
while [ -n "$folder" ]; do
  folder=${folder%/*}
  program=$folder/node_modules/$package/turnhost
  [ -f "$program" ] && exec "$program" "$@"
done
echo "turnhost: $package is not installed, npm leaves it out with --omit=optional: npm install $package" >&2
exit 1
