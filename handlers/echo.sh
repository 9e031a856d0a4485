#!/usr/bin/env bash
# A complete turnhost handler in bash: says the prompt back, and counts the turns of a session in its state.
# It speaks the stdio protocol of README.md itself: one JSON object per line, on stdin from the server, on stdout to it.
# Copy it and change it. Its limit: it finds its way by the order of keys that README.md promises, since bash knows no JSON.

LC_ALL=C # bytes instead of characters: faster, and broken UTF-8 does no harm

string='"([^"\\]*(\\.[^"\\]*)*)"' # a JSON string. What is between the quotes stays escaped as it came, so it can go out again
turn="^\{\"type\":\"turn\",\"id\":$string,\"prompt\":$string,\"state\":(\{\"turns\": ?([0-9]{1,9})\})?"

# `|| [[ … ]]` takes a last line that has no line end.
while IFS= read -r line || [[ -n $line ]]; do
  if [[ $line == '{"type":"hello"'* ]]; then
    # No capabilities: one turn at a time, no pings, and whoever wants to cancel ends the process.
    printf '{"type":"ready","name":"echo.sh","capabilities":[]}\n'
  elif [[ $line =~ $turn ]]; then
    id=${BASH_REMATCH[1]}
    prompt=${BASH_REMATCH[3]}
    turns=$((10#${BASH_REMATCH[6]:-0} + 1)) # no state, or one that is not ours: the first turn
    printf '{"type":"text","id":"%s","text":"You said: %s"}\n' "$id" "$prompt"
    printf '{"type":"result","id":"%s","text":"%s","state":{"turns":%d}}\n' "$id" "$prompt" "$turns"
  fi # anything else is for handlers that can do more
done
