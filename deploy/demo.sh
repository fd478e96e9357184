#!/usr/bin/env bash
# From nothing to an answer: installs what is missing, builds, starts a cluster of two CPU ranks on the demo
# model, asks it a question over HTTP and over gRPC, and says how to go on. Leaves no process behind.
#
#   deploy/demo.sh            the whole demo
#   deploy/demo.sh --keep     leave the cluster running until Ctrl-C
#   deploy/demo.sh --question "What is a KV cache?"
set -euo pipefail
cd "$(dirname "$0")/.."

keep=0
question="What is tensor parallelism?"
while [ $# -gt 0 ]; do
  case "$1" in
    --keep) keep=1 ;;
    --question) question="${2:?--question needs a text}"; shift ;;
    -h|--help) sed -n '2,8p' "$0" | sed 's/^# \{0,1\}//'; exit 0 ;;
    *) echo "demo.sh: unknown argument $1 (try --help)" >&2; exit 2 ;;
  esac
  shift
done

readonly BIN=build/release/bin
work=$(mktemp -d)
server=""
cleanup() {
  if [ -n "$server" ] && kill -0 "$server" 2>/dev/null; then
    kill -TERM "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
  fi
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

step() { printf '\n== %s\n' "$1"; }

step "Install"
deploy/install-deps.sh --build

step "Build"
if [ ! -f build/release/build.ninja ]; then
  cmake --preset release -DTESSERA_TESTS=OFF >"$work/configure.log" 2>&1 || { tail -n 30 "$work/configure.log" >&2; exit 1; }
fi
cmake --build --preset release --target tessera

step "Start: one coordinator, two tensor-parallel CPU ranks"
ready="$work/ready.json"
"$BIN/tessera" serve --model deploy/demo-model --tp 2 --device cpu \
  --http-port 0 --grpc-port 0 --health-port 0 --reflection --ready-file "$ready" &
server=$!
for _ in $(seq 600); do
  [ -s "$ready" ] && break
  kill -0 "$server" 2>/dev/null || { echo "demo.sh: the cluster did not start, see above" >&2; exit 1; }
  sleep 0.1
done
[ -s "$ready" ] || { echo "demo.sh: the cluster was not ready within 60 s" >&2; exit 1; }
address() { sed -nE 's/.*"'"$1"'":"([^"]+)".*/\1/p' "$ready"; }
http=$(address http)
grpc=$(address grpc)

step "Ask over HTTP (OpenAI API, streamed): $question"
deploy/ask.sh "http://$http" "$question"

step "Ask over gRPC: $question"
"$BIN/tessera" chat --address "$grpc" --temperature 0 --once "$question"

step "How to go on"
cat <<TXT
  tessera serve --model deploy/demo-model --tp 2 --http-port 8000 --grpc-port 50051   ($BIN/tessera)
  tessera chat                                            a conversation in the terminal
  tessera inspect deploy/demo-model                       architecture, licence, memory plan
  tessera doctor                                          what this machine has

  curl -N http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' -d \\
    '{"model":"demo-model","stream":true,"messages":[{"role":"user","content":"$question"}]}'

  grpcurl -plaintext -d '{"messages":[{"role":"user","content":"$question"}]}' \\
    127.0.0.1:50051 tessera.v1.Tessera/Chat               (serve with --reflection)

  from openai import OpenAI
  client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
  for part in client.chat.completions.create(model="demo-model", stream=True,
      messages=[{"role": "user", "content": "$question"}]):
    print(part.choices[0].delta.content or "", end="", flush=True)

  metrics: http://127.0.0.1:8000/metrics     health: http://127.0.0.1:8000/readyz
TXT

if [ "$keep" = 1 ]; then
  printf '\nThis cluster goes on: HTTP %s, gRPC %s. Ctrl-C ends it.\n' "$http" "$grpc"
  wait "$server"
fi
