"""Starts real Tessera processes and talks to them, for the integration tests.

Everything binds port 0 and waits with a deadline; whatever was started is gone when the `with` block ends.
"""

import http.client
import importlib
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build/release/bin"
DEMO_MODEL = ROOT / "deploy/demo-model"
FULL_SIZE = os.environ.get("TESSERA_INTEGRATION_FULL", "") not in ("", "0")
READY_SECONDS = 60
EXIT_SECONDS = 30


def run_tests():
    """The main of every test file: the binaries' folder is argv[1], the rest goes to unittest."""
    unittest.main(module="__main__", argv=[sys.argv[0], *sys.argv[2:]], verbosity=2)


def sized(quick, full):
    """How much of something a test does: `full` where TESSERA_INTEGRATION_FULL is set (tests/nightly.sh)."""
    return full if FULL_SIZE else quick


def demo_questions():
    """[(question, answer)] that the demo model answers word for word."""
    lines = (DEMO_MODEL / "questions.jsonl").read_text().splitlines()
    pairs = [json.loads(line) for line in lines if line.strip()]
    return [(pair["question"], pair["answer"]) for pair in pairs]


class Process:
    """A started program whose output is kept in files."""

    def __init__(self, program, *arguments, wrapper=()):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="tessera-test-"))
        self.arguments = [*wrapper, str(BIN / program), *map(str, arguments)]
        self.stdout_path = self.directory / "stdout"
        self.stderr_path = self.directory / "stderr"
        with open(self.stdout_path, "w") as out, open(self.stderr_path, "w") as err:
            self.process = subprocess.Popen(self.arguments, stdout=out, stderr=err,
                                            stdin=subprocess.DEVNULL)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.stop()
        if exception[0] is not None:
            print(f"--- output of {' '.join(self.arguments)}\n{self.output()}", file=sys.stderr)
        shutil.rmtree(self.directory, ignore_errors=True)

    def output(self):
        return self.stdout_path.read_text() + self.stderr_path.read_text()

    def wait(self, seconds=EXIT_SECONDS):
        return self.process.wait(timeout=seconds)

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"{self.arguments[0]} did not end on SIGTERM")

    def wait_for_file(self, path, seconds=READY_SECONDS):
        wait_until(lambda: path.exists() or self.process.poll() is not None, seconds,
                   f"{path.name} of {self.arguments[0]}\n{self.output()}")
        if not path.exists():
            raise AssertionError(
                f"{self.arguments[0]} exited with {self.process.returncode}\n{self.output()}")


class Server(Process):
    """`tessera serve` (or the coordinator alone), up and accepting requests."""

    def __init__(self, *arguments, program=("tessera", "serve"), model=DEMO_MODEL, wait=True,
                 model_flag=None):
        self.ready_file = pathlib.Path(tempfile.mkdtemp(prefix="tessera-ready-")) / "ready.json"
        flags = ["--model", model_flag or model, "--http-port", "0", "--grpc-port", "0",
                 "--health-port", "0", "--ready-file", self.ready_file,
                 *arguments]
        if "--heartbeats-missed-max" not in flags:
            # A busy test machine may hold a process up for a second.
            flags += ["--heartbeats-missed-max", "40"]
        super().__init__(program[0], *program[1:], *flags)
        if wait:
            self.wait_ready()

    def wait_ready(self):
        self.wait_for_file(self.ready_file)
        self.addresses = json.loads(self.ready_file.read_text())

    def __exit__(self, *exception):
        super().__exit__(*exception)
        shutil.rmtree(self.ready_file.parent, ignore_errors=True)

    def connect(self, timeout=60):
        return http.client.HTTPConnection(self.addresses["http"], timeout=timeout)

    def request(self, method, path, body=None, headers=None):
        """(status, headers, text) of one HTTP exchange."""
        connection = self.connect()
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        connection.request(method, path, body,
                           {"Content-Type": "application/json", **(headers or {})})
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, response.headers, text

    def send(self, path, body, timeout=60):
        """A socket on which this request was sent and nothing was read; its answer ends with the connection."""
        host, port = self.addresses["http"].split(":")
        connection = socket.create_connection((host, int(port)), timeout)
        connection.sendall(request_bytes(path, body, "Connection: close\r\n"))
        return connection

    def post(self, path, body):
        status, _, text = self.request("POST", path, body)
        return status, json.loads(text)

    def chat(self, question, **parameters):
        body = {"messages": [{"role": "user", "content": question}], "temperature": 0, **parameters}
        status, reply = self.post("/v1/chat/completions", body)
        if status != 200:
            raise AssertionError(f"{status}: {reply}")
        return reply["choices"][0]["message"]["content"]

    def stream(self, path, body):
        """Yields the JSON objects of a server-sent event stream; ends at [DONE]."""
        connection = self.connect()
        connection.request("POST", path, json.dumps({**body, "stream": True}),
                           {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise AssertionError(f"{response.status}: {response.read()}")
        try:
            for line in response:
                line = line.strip()
                if line == b"data: [DONE]":
                    # The body must end properly too: an incomplete chunked read raises here.
                    if response.read().strip():
                        raise AssertionError("something came after [DONE]")
                    return
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])
            raise AssertionError("the stream ended without [DONE]")
        finally:
            connection.close()

    def scrape(self):
        return Scrape(self.request("GET", "/metrics")[2])

    def metric(self, name, **labels):
        """Sum of a metric's samples that have these labels."""
        return self.scrape().sum(name, **labels)

    def worker_pids(self):
        """Pids of the ranks that `tessera serve` started."""
        return [pid for pid in children_of(self.process.pid) if name_of(pid) == "tessera-worker"]

    def coordinator_pid(self):
        """Of the coordinator, started alone or by `tessera serve`."""
        if name_of(self.process.pid) == "tessera-coordinator":
            return self.process.pid
        return next(pid for pid in children_of(self.process.pid)
                    if name_of(pid) == "tessera-coordinator")


class Apart(Server):
    """A coordinator and its workers as separate programs; `via` may put something between them.

    `via(address)` gets the address that workers dial and returns the one they are told.
    """

    def __init__(self, tp, *arguments, threads=1, via=lambda address: address, worker_flags=()):
        super().__init__("--listen", "127.0.0.1:0", "--tp", str(tp), *arguments,
                         program=("tessera-coordinator",), wait=False)
        self.workers = []
        try:
            wait_until(lambda: "workers 127.0.0.1:" in self.output(), 20, "the log line")
            address = via(self.output().split("workers ")[1].split()[0])
            self.workers = [Process("tessera-worker", "--coordinator", address, "--model-root",
                                    DEMO_MODEL.parent, "--threads", str(threads), *worker_flags)
                            for _ in range(tp)]
            self.wait_ready()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise

    def __exit__(self, *exception):
        super().__exit__(*exception)
        for worker in self.workers:
            worker.__exit__(*exception)


class Scrape:
    """What /metrics said at one moment."""

    def __init__(self, text):
        self.lines = [line for line in text.splitlines() if not line.startswith("#")]

    def sum(self, name, **labels):
        """Sum of a metric's samples that have these labels."""
        total, found = 0.0, False
        for line in self.lines:
            if not line.startswith((name + "{", name + " ")):
                continue
            if all(f'{key}="{value}"' in line for key, value in labels.items()):
                total, found = total + float(line.rsplit(" ", 1)[1]), True
        if not found:
            raise AssertionError(f"no sample of {name} {labels} in /metrics")
        return total


def request_bytes(path, body, headers=""):
    """A POST of this JSON as it goes over the wire."""
    text = json.dumps(body)
    return (f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n{headers}"
            f"Content-Length: {len(text)}\r\n\r\n{text}").encode()


def children_of(pid):
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(entry.name))
    return sorted(found)


def name_of(pid):
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return ""


def resident_mebibytes(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def wait_until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s for {what}")
        time.sleep(0.02)


def median_and_error(values):
    """The error is the median's standard error, from the quartiles: a few wild values change neither.

    For what was measured in pairs, one directly after the other: what else the machine does meets both alike, and
    the error says how much is left of it. A bound that is missed by more than two errors is missed.
    """
    quarters = statistics.quantiles(values, n=4)
    return statistics.median(values), 1.25 * (quarters[2] - quarters[0]) / 1.35 / len(values) ** 0.5


def shared_memory_names():
    return {name for name in os.listdir("/dev/shm") if "tessera" in name}


class Stubs:
    """gRPC stubs generated from the committed protos, in Python."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="tessera-stubs-")
        protos = ["tessera/v1/tessera.proto", "tessera/cluster/v1/step.proto",
                  "tessera/cluster/v1/cluster.proto"]
        subprocess.run(
            ["protoc", f"-I{ROOT / 'proto'}", f"--python_out={self.directory}",
             f"--grpc_out={self.directory}",
             f"--plugin=protoc-gen-grpc={shutil.which('grpc_python_plugin')}", *protos],
            check=True)
        sys.path.insert(0, self.directory)
        self.v1 = importlib.import_module("tessera.v1.tessera_pb2")
        self.v1_grpc = importlib.import_module("tessera.v1.tessera_pb2_grpc")
        self.cluster = importlib.import_module("tessera.cluster.v1.cluster_pb2")
        self.cluster_grpc = importlib.import_module("tessera.cluster.v1.cluster_pb2_grpc")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        shutil.rmtree(self.directory, ignore_errors=True)
