#!/usr/bin/env bash
# The agent of this bundle. Put yours where the echo is.
# It reads and writes one JSON object per line. bash knows no JSON, so it goes by the order of keys, which is promised.

LC_ALL=C # bytes instead of characters: faster, and broken UTF-8 does no harm

string='"([^"\\]*(\\.[^"\\]*)*)"' # a JSON string. What is between the quotes stays escaped as it came, so it can go out again
turn="^\{\"type\":\"turn\",\"id\":$string,\"prompt\":$string,\"state\":(\{\"turns\": ?([0-9]{1,9})\})?"

while IFS= read -r line || [[ -n $line ]]; do
  if [[ $line == '{"type":"hello"'* ]]; then
    printf '{"type":"ready","name":"handler.sh","capabilities":[]}\n'
  elif [[ $line =~ $turn ]]; then
    id=${BASH_REMATCH[1]}
    prompt=${BASH_REMATCH[3]}
    # The state is whatever was returned last in this session; null in the first turn.
    turns=$((10#${BASH_REMATCH[6]:-0} + 1))
    # Said piece by piece, as a model says it.
    printf '{"type":"delta","id":"%s","text":"You said: "}\n' "$id"
    printf '{"type":"delta","id":"%s","text":"%s"}\n' "$id" "$prompt"
    printf '{"type":"result","id":"%s","text":"You said: %s","state":{"turns":%d}}\n' "$id" "$prompt" "$turns"
  fi
done
