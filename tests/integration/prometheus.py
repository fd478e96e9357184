"""A real Prometheus that scrapes one server every second with the rules of deploy/prometheus, for the integration tests."""

import http.client
import json
import math
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
import urllib.parse

import harness

# Where deploy/install-deps.sh unpacks Debian's package.
UNPACKED = pathlib.Path(os.environ.get("TESSERA_PROMETHEUS_ROOT", "/opt/tessera/prometheus")) / "usr/bin"
RULES = harness.ROOT / "deploy/prometheus"


def find_prometheus():
    found = shutil.which("prometheus") or shutil.which("prometheus", path=str(UNPACKED))
    if found is None:
        raise unittest.SkipTest(f"prometheus is neither on PATH nor in {UNPACKED}; deploy/install-deps.sh puts it there")
    return found


class Prometheus:
    def __init__(self, target):
        program = find_prometheus()
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="tessera-prometheus-"))
        config = self.directory / "prometheus.yml"
        config.write_text(json.dumps({  # JSON is YAML
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES / "recording.yml"), str(RULES / "alerts.yml")],
            "scrape_configs": [{"job_name": "tessera", "static_configs": [{"targets": [target]}]}]}))
        self.log = self.directory / "log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [program, f"--config.file={config}", f"--storage.tsdb.path={self.directory}/data",
                 "--web.listen-address=127.0.0.1:0"], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            harness.wait_until(lambda: self.process.poll() is not None or self._find_address(), 30,
                               "Prometheus' address")
            self.address = self._find_address()
            harness.wait_until(self._is_ready, 30, f"Prometheus\n{self.log.read_text()}")
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=harness.EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _find_address(self):
        found = re.findall(r'msg="Listening on" address=(?:http://)?(127\.0\.0\.1:[1-9]\d*)', self.log.read_text())
        return found[-1] if found else None

    def _is_ready(self):
        try:
            return self._get("/-/ready")[0] == 200
        except OSError:
            return False

    def _get(self, path, **parameters):
        connection = http.client.HTTPConnection(self.address, timeout=30)
        connection.request("GET", f"{path}?{urllib.parse.urlencode(parameters)}")
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, text

    def api(self, path, **parameters):
        status, text = self._get(f"/api/v1/{path}", **parameters)
        if status != 200:
            raise AssertionError(f"{status} of {path} {parameters}: {text}")
        return json.loads(text)["data"]

    def value(self, expr):
        """Of an expression with one result."""
        (result,) = self.api("query", query=expr)["result"]
        return float(result["value"][1])

    def numbers(self, expr, since):
        """How many samples since then were numbers, over all series of the expression."""
        matrix = self.api("query_range", query=expr, start=since, end=time.time(), step=1)["result"]
        return sum(not math.isnan(float(value)) for series in matrix for _, value in series["values"])
