#!/usr/bin/env bash
# Asks a served model one question over the OpenAI API and prints the answer as it streams in, then the
# tokens and their rate. Needs curl and awk only.
#
#   deploy/ask.sh http://127.0.0.1:8000 "What is a KV cache?"
set -euo pipefail
if [ $# -ne 2 ]; then
  echo "usage: deploy/ask.sh http://127.0.0.1:8000 \"What is a KV cache?\"" >&2
  exit 2
fi
base="${1%/}"
question="$2"

escape() { printf '%s' "$1" | sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' | tr '\000-\037' ' '; }

body=$(printf '{"messages":[{"role":"user","content":"%s"}],"temperature":0,"stream":true,%s}' \
  "$(escape "$question")" '"stream_options":{"include_usage":true}')
start=$(date +%s%N)
curl -sSN --fail-with-body --max-time 120 "$base/v1/chat/completions" \
  -H 'Content-Type: application/json' -d "$body" |
awk -v start="$start" '
  function now(   t) { "date +%s%N" | getline t; close("date +%s%N"); return t }
  /^\r?$/ || /^data: \[DONE\]/ { next }
  /^data: / {
    if (match($0, /"content":"([^"\\]|\\.)*"/)) {
      text = substr($0, RSTART + 11, RLENGTH - 12)
      gsub(/\\n/, "\n", text); gsub(/\\"/, "\"", text); gsub(/\\\\/, "\\", text)
      if (text != "" && !first) first = now()
      printf "%s", text; fflush()
    }
    if (match($0, /"completion_tokens":[0-9]+/)) tokens = substr($0, RSTART + 20, RLENGTH - 20)
    next
  }
  { print; failed = /"error"/ }
  END {
    print ""
    if (failed || !first) exit 1
    seconds = (now() - first) / 1e9
    printf "[%d output tokens, first after %.0f ms, %.1f tok/s]\n", tokens, (first - start) / 1e6, \
      (seconds > 0 ? (tokens - 1) / seconds : 0)
  }'
