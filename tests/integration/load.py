"""Measures a served model: requests/s, tokens/s, time to first token. Not a test; prints one line per case.

    /usr/bin/python3 tests/integration/load.py build/release/bin
"""

import concurrent.futures
import statistics
import time

import harness
from harness import Server

TOKENS = 128
REQUESTS_PER_STREAM = 6


def one_request(server, seed):
    """(seconds to the first token, seconds in all) of one streamed completion of TOKENS tokens."""
    begun = time.monotonic()
    first = None
    body = {"prompt": "Tessera is", "max_tokens": TOKENS, "ignore_eos": True, "temperature": 0.8,
            "seed": seed}
    for chunk in server.stream("/v1/completions", body):
        if first is None and chunk["choices"]:
            first = time.monotonic() - begun
    return first, time.monotonic() - begun


def measure(server, streams):
    one_request(server, 0)
    begun = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(streams) as pool:
        results = list(pool.map(lambda seed: one_request(server, seed),
                                range(streams * REQUESTS_PER_STREAM)))
    seconds = time.monotonic() - begun
    firsts = [first for first, _ in results]
    return len(results) / seconds, len(results) * TOKENS / seconds, statistics.median(firsts)


def main():
    for tp in ("1", "2"):
        with Server("--tp", tp) as server:
            time.sleep(1)
            print(f"tp {tp}, idle: coordinator {harness.resident_mebibytes(server.coordinator_pid()):.0f} MiB resident")
            for streams in (1, 16, 64):
                requests, tokens, first = measure(server, streams)
                print(f"tp {tp}, {streams:2} streams: {requests:6.1f} requests/s {tokens:8.0f} tokens/s, "
                      f"first token after {first * 1e3:.1f} ms (median)")


if __name__ == "__main__":
    main()
