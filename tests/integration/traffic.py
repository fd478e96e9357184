"""Load from processes of its own, on raw connections, so that clients disturb what they measure as little as can be.

`Traffic` runs a coroutine, such as the two generators below, in a child process: whatever it leaves open ends with it.
Times are of the monotonic clock, which all processes share.
"""

import asyncio
import collections
import json
import multiprocessing
import random
import time

from harness import request_bytes

ANSWER_SECONDS_MAX = 60
TRAFFIC_SECONDS_MAX = 500
REFUSED_SECONDS = 0.05  # until a client of a closed loop tries again

# status, seconds in Retry-After (none: not there), completion tokens
Outcome = collections.namedtuple("Outcome", "begun ended status retry_after tokens")


class Client:
    """Connections that are kept open and used again."""

    def __init__(self, address):
        self.host, port = address.split(":")
        self.port = int(port)
        self.idle = []

    async def connection(self):
        while self.idle:
            reader, writer = self.idle.pop()
            if not reader.at_eof():  # else the server has closed it, after a minute without use
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self.host, self.port)

    async def complete(self, body):
        begun = time.monotonic()
        reader, writer = await self.connection()
        writer.write(request_bytes("/v1/completions", body))
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        text = await reader.readexactly(int(headers["content-length"]))
        ended = time.monotonic()
        if headers.get("connection") == "close":
            writer.close()
        else:
            self.idle.append((reader, writer))
        status = int(head[0].split()[1])
        tokens = json.loads(text)["usage"]["completion_tokens"] if status == 200 else 0
        return Outcome(begun, ended, status, headers.get("retry-after"), tokens)

    def close(self):
        for _, writer in self.idle:
            writer.close()


async def closed_loop(address, bodies, seconds, clients):
    """So many clients, each with its next request as soon as it has its answer, or soon after a refusal."""
    client, outcomes = Client(address), []
    end = time.monotonic() + seconds

    async def one():
        while time.monotonic() < end:
            outcomes.append(await client.complete(next(bodies)))
            if outcomes[-1].status == 429:
                await asyncio.sleep(REFUSED_SECONDS)

    await asyncio.wait_for(asyncio.gather(*(one() for _ in range(clients))),
                           seconds + ANSWER_SECONDS_MAX)
    client.close()
    return outcomes


async def open_loop(address, bodies, times, rate, seed):
    """Within each (begin, end) of `times`: requests at random, so many a second, whatever becomes of earlier ones."""
    client, draws, requests = Client(address), random.Random(seed), []
    for begin, end in times:
        due = begin + draws.expovariate(rate)
        while due < end:
            await asyncio.sleep(max(0, due - time.monotonic()))
            requests.append(asyncio.ensure_future(client.complete(next(bodies))))
            due += draws.expovariate(rate)
    outcomes = await asyncio.wait_for(asyncio.gather(*requests), ANSWER_SECONDS_MAX)
    client.close()
    return outcomes


class Traffic:
    """A coroutine function and its arguments, at work in a process of its own."""

    def __init__(self, function, *arguments):
        context = multiprocessing.get_context("fork")
        self.results, sender = context.Pipe(duplex=False)
        self.process = context.Process(
            target=lambda: sender.send(asyncio.run(function(*arguments))), daemon=True)
        self.process.start()
        sender.close()

    def outcomes(self):
        if not self.results.poll(TRAFFIC_SECONDS_MAX):
            raise AssertionError(f"traffic of more than {TRAFFIC_SECONDS_MAX} s")
        outcomes = self.results.recv()
        self.process.join()
        return outcomes
