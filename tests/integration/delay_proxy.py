"""Forwards TCP and delays one direction; a program of its own, so that no test's work delays it further.

    /usr/bin/python3 tests/integration/delay_proxy.py HOST:PORT

What the dialling side sends reaches HOST:PORT after a delay, what comes back is forwarded at once. Prints its own
port; each line on stdin is a new delay in seconds; ends with stdin.
"""

import collections
import os
import select
import socket
import sys
import time

CHUNK_BYTES = 1 << 16
SECONDS_WHEN_IDLE = 1.0


class Pipe:
    """One direction of one connection."""

    def __init__(self, source, target):
        self.source, self.target = source, target
        self.waiting = collections.deque()  # (when it is due, bytes; none: the end)
        self.ended = False

    def read(self, delay):
        try:
            data = self.source.recv(CHUNK_BYTES)
        except OSError:
            data = b""
        self.ended = not data
        due = time.monotonic() + delay
        if self.waiting:
            due = max(due, self.waiting[-1][0])  # a shorter delay overtakes nothing
        self.waiting.append((due, data))

    def write_due(self, now):
        while self.waiting and self.waiting[0][0] <= now:
            data = self.waiting.popleft()[1]
            try:
                if data:
                    self.target.sendall(data)
                else:
                    self.target.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the other side is gone; its own end of stream ends this connection


def serve(listener, target, commands):
    delay = 0.0
    delayed, at_once = [], []
    while True:
        now = time.monotonic()
        dues = [pipe.waiting[0][0] for pipe in delayed if pipe.waiting]
        wait = max(0.0, min(dues) - now) if dues else SECONDS_WHEN_IDLE
        sources = {pipe.source: pipe for pipe in delayed + at_once if not pipe.ended}
        readable, _, _ = select.select([listener, commands, *sources], [], [], wait)
        for source in readable:
            if source is listener:
                near, _ = listener.accept()
                far = socket.create_connection(target)
                for end in (near, far):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                delayed.append(Pipe(near, far))
                at_once.append(Pipe(far, near))
            elif source is commands:
                lines = os.read(commands.fileno(), CHUNK_BYTES).split()
                if not lines:
                    return
                delay = float(lines[-1])
            else:
                pipe = sources[source]
                pipe.read(delay if pipe in delayed else 0.0)
        now = time.monotonic()
        for pipe in delayed + at_once:
            pipe.write_due(now)


def main():
    host, port = sys.argv[1].rsplit(":", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        serve(listener, (host, int(port)), sys.stdin)


if __name__ == "__main__":
    main()
