"""Clients that go away at any moment, by the thousand: their blocks come back at once and nothing is left behind."""

import asyncio
import os
import random
import socket
import statistics
import struct
import time
import unittest

import grpc

import harness
from harness import Server, request_bytes, sized
from traffic import Traffic

CLIENTS = sized(1000, 10_000)
AT_A_TIME = 40
GRPC_SHARE = 0.15
WAIT_SECONDS_MAX = 30  # for what a client waits for before it goes away
QUIET_SECONDS_MAX = 0.05
STEPS_MAX = 3  # one runs, one is queued, one may end while a client goes away
SEED = int(os.environ.get("TESSERA_TEST_SEED", "1"))


def completion(draws):
    """A request that would go on for long: short or long prompt, one choice or three, with and without stop strings."""
    body = {"prompt": [draws.randrange(100, 2000) for _ in range(draws.choice((4,) * 8 + (100,) * 3 + (500,)))],
            "max_tokens": 300, "ignore_eos": True, "seed": draws.randrange(1 << 32),
            "stream": draws.random() < 0.8}
    if draws.random() < 0.3:
        body["n"] = 3
    if draws.random() < 0.3:
        body["stop"] = ["no such text", "nor this one"]
    if draws.random() < 0.1:
        body["logprobs"] = 2
    return body


class Rude:
    """HTTP clients on raw sockets; each leaves at a point of its own."""

    def __init__(self, server, draws):
        host, port = server.addresses["http"].split(":")
        self.address, self.draws = (host, int(port)), draws

    async def one(self):
        draws, loop = self.draws, asyncio.get_running_loop()
        request = request_bytes("/v1/completions", completion(draws), "Connection: close\r\n")
        head = request.index(b"\r\n\r\n") + 4
        part = {"in the head": draws.randrange(head), "in the body": draws.randrange(head, len(request))}
        point = draws.choice(("in the head", "in the body", "sent", "soon", "soon", "in the stream",
                              "in the stream", "in the stream"))
        soon, wanted = draws.uniform(0, 0.03), draws.randrange(1, 3000)
        connection = socket.socket()
        connection.setblocking(False)
        try:
            await loop.sock_connect(connection, self.address)
            await loop.sock_sendall(connection, request[:part.get(point, len(request))])
            if point == "soon":
                await asyncio.sleep(soon)
            while point == "in the stream" and wanted > 0:
                data = await asyncio.wait_for(loop.sock_recv(connection, wanted), WAIT_SECONDS_MAX)
                wanted = wanted - len(data) if data else 0
            if draws.random() < 0.5:  # a reset instead of an end
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        finally:
            connection.close()


class RudeCalls:
    """gRPC calls that are cancelled, or whose channel goes away under them."""

    def __init__(self, server, stubs, draws):
        self.address, self.stubs, self.draws = server.addresses["grpc"], stubs, draws

    def request(self):
        body, v1 = completion(self.draws), self.stubs.v1
        sampling = v1.SamplingParams(max_tokens=body["max_tokens"], ignore_eos=True, seed=body["seed"],
                                     n=body.get("n", 1), stop=body.get("stop", []))
        return v1.GenerateRequest(token_ids=v1.TokenIds(ids=body["prompt"]), sampling=sampling)

    async def one(self):
        point, soon = self.draws.choice(("at once", "soon", "in the stream")), self.draws.uniform(0, 0.03)
        request, messages, cancels = self.request(), self.draws.randrange(1, 40), self.draws.random() < 0.7
        # A channel of its own: without the option, channels to one address share a connection.
        channel = grpc.aio.insecure_channel(self.address, [("grpc.use_local_subchannel_pool", 1)])
        call = self.stubs.v1_grpc.TesseraStub(channel).Generate(request)
        if point == "soon":
            await asyncio.sleep(soon)
        elif point == "in the stream":
            for _ in range(messages):
                if await asyncio.wait_for(call.read(), WAIT_SECONDS_MAX) is grpc.aio.EOF:
                    break
        if cancels:
            call.cancel()
        await channel.close(None)


class DisconnectTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.stubs = harness.Stubs()
        cls.addClassCleanup(cls.stubs.__exit__, None, None, None)
        # Room for eight whole contexts, so that some of the clients wait when they go.
        cls.server = Server("--tp", "1", "--threads", "1", "--kv-memory", "16MiB")
        cls.addClassCleanup(cls.server.__exit__, None, None, None)
        cls.pid = cls.server.coordinator_pid()

    def is_quiet(self):
        now = self.server.scrape()
        return (now.sum("tessera_requests_running") == now.sum("tessera_requests_waiting") ==
                now.sum("tessera_kv_cache_usage_ratio") == 0)

    def has_twenty(self):
        now = self.server.scrape()
        return now.sum("tessera_requests_running") + now.sum("tessera_requests_waiting") == 20

    def seconds_until_quiet(self):
        """Until nothing runs, nothing waits and every block is free."""
        begun = time.monotonic()
        while not self.is_quiet():
            self.assertLess(time.monotonic() - begun, 10, self.server.request("GET", "/metrics")[2])
        return time.monotonic() - begun

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    async def crowd(self, count, seed):
        """So many clients, AT_A_TIME of them at once."""
        draws = random.Random(seed)
        http = Rude(self.server, draws)
        calls = RudeCalls(self.server, self.stubs, draws)
        kinds = iter([calls if draws.random() < GRPC_SHARE else http for _ in range(count)])

        async def queue():
            for kind in kinds:
                await kind.one()

        await asyncio.gather(*(queue() for _ in range(AT_A_TIME)))

    def test_at_random_points_by_the_thousand(self):
        Traffic(self.crowd, 100, SEED + 1).outcomes()  # so that threads and pollers are there
        self.seconds_until_quiet()
        time.sleep(0.5)
        descriptors, memory = self.descriptors(), harness.resident_mebibytes(self.pid)
        begun = time.monotonic()
        Traffic(self.crowd, CLIENTS, SEED).outcomes()
        seconds = time.monotonic() - begun
        quiet = self.seconds_until_quiet()
        cancelled = self.server.metric("tessera_requests_total", finish_reason="cancelled")
        print(f"seed {SEED}: {CLIENTS} clients went away in {seconds:.1f} s, {cancelled:.0f} requests cancelled; "
              f"all blocks free {quiet * 1e3:.0f} ms later; {memory:.1f} MiB before, {harness.resident_mebibytes(self.pid):.1f} after")
        self.assertGreater(cancelled, CLIENTS / 3)
        self.assertLessEqual(quiet, QUIET_SECONDS_MAX)
        harness.wait_until(lambda: self.server.metric("tessera_http_connections") == 1, 10,
                           "all connections but the asking one to be closed")
        harness.wait_until(lambda: self.descriptors() <= descriptors, 10,
                           f"{descriptors} open descriptors; there are {self.descriptors()}")
        question, answer = harness.demo_questions()[0]
        self.assertEqual(self.server.chat(question), answer)

    async def streams(self, count):
        """So many streams, half of them over gRPC, that are read and never left."""
        host, port = self.server.addresses["http"].split(":")
        v1 = self.stubs.v1
        request = v1.GenerateRequest(token_ids=v1.TokenIds(ids=[7]), sampling=v1.SamplingParams(
            max_tokens=900, ignore_eos=True))
        body = {"prompt": [7], "max_tokens": 900, "ignore_eos": True, "stream": True}

        async def http():
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(request_bytes("/v1/completions", body))
            await reader.read()

        async def call():
            async with grpc.aio.insecure_channel(self.server.addresses["grpc"]) as channel:
                async for _ in self.stubs.v1_grpc.TesseraStub(channel).Generate(request):
                    pass

        await asyncio.gather(*(http() if i % 2 else call() for i in range(count)))

    def test_a_killed_client_takes_all_its_streams_along(self):
        times = []
        for _ in range(sized(5, 50)):
            client = Traffic(self.streams, 20)
            try:
                harness.wait_until(self.has_twenty, 30, "20 streams, some of which wait")
            finally:
                client.process.kill()
            times.append(self.seconds_until_quiet())
        print(f"all blocks free {statistics.median(times) * 1e3:.1f} ms (at most {max(times) * 1e3:.1f}) after a "
              "process with 20 streams was killed")
        self.assertLessEqual(statistics.median(times), QUIET_SECONDS_MAX)

    def test_blocks_come_back_within_a_step(self):
        """Of 32 streams whose client goes away; a step of theirs takes some milliseconds."""
        draws = random.Random(SEED)
        steps, times = [], []
        for _ in range(sized(15, 100)):
            body = {"prompt": [7] * 4, "max_tokens": 80, "ignore_eos": True, "n": 32, "stream": True}
            with self.server.send("/v1/completions", body) as connection:
                connection.recv(1000)
                time.sleep(draws.uniform(0.02, 0.06))
                before = self.server.scrape()
            times.append(self.seconds_until_quiet())
            steps.append(self.server.metric("tessera_steps_total") - before.sum("tessera_steps_total"))
        print(f"all blocks free {statistics.median(steps):.0f} steps (at most {max(steps):.0f}) and "
              f"{statistics.median(times) * 1e3:.1f} ms (at most {max(times) * 1e3:.1f}) after a client has gone")
        self.assertLessEqual(statistics.median(steps), STEPS_MAX)


if __name__ == "__main__":
    harness.run_tests()
