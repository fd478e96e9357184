"""Dockerfile, compose file and systemd units against the tree and the programs. What needs a tool that is not here skips.

    files_test.py BIN
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import unittest

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/helm"))
BIN = pathlib.Path(sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else "build/release/bin")
COMPOSE = ROOT / "deploy/compose"
SYSTEMD = ROOT / "deploy/systemd"
UNPACKED = pathlib.Path(os.environ.get("TESSERA_PROMETHEUS_ROOT", "/opt/tessera/prometheus")) / "usr/bin"


def known_flags(program):
    text = subprocess.run([BIN / program, "--help"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"(--[a-z][a-z0-9-]*)", text))


def flags(words):
    return {word.split("=")[0] for word in words if word.startswith("--")}


class DockerfileTest(unittest.TestCase):
    text = (ROOT / "deploy/images/Dockerfile").read_text()

    def test_every_image_is_a_root_and_a_user(self):
        stages = dict(re.findall(r"(?ms)^FROM (\S+ AS \S+)\n(.*?)(?=^FROM|\Z)", self.text))
        for image in (path.stem for path in (ROOT / "deploy/images").glob("*.files")):
            with self.subTest(image=image):
                body = stages[f"scratch AS {image}"]
                self.assertEqual(re.findall(r"COPY --from=\S+ /out/(\S+) /\n", body), [image])
                self.assertIn("USER 65532:65532", body)
                self.assertNotIn("RUN", body)
                self.assertRegex(self.text, rf"assemble.py {image} build/\w+ /out/{image}\b")

    def test_what_it_copies_and_builds_is_there(self):
        for path in re.findall(r"deploy/[\w./-]+", self.text):
            self.assertTrue((ROOT / path).exists(), path)
        presets = {one["name"] for one in json.loads((ROOT / "CMakePresets.json").read_text())["configurePresets"]}
        self.assertLessEqual(set(re.findall(r"--preset (\w+)", self.text)), presets)


class ComposeTest(unittest.TestCase):
    services = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]

    def test_flags_are_known(self):
        self.assertLessEqual(flags(self.services["coordinator"]["command"]), known_flags("tessera-coordinator"))
        for rank in ("rank-0", "rank-1"):
            self.assertLessEqual(flags(self.services[rank]["command"]), known_flags("tessera-worker"))
        self.assertIn("--tp=2", self.services["coordinator"]["command"])

    def test_mounts_are_there(self):
        for name, service in self.services.items():
            for volume in service.get("volumes", []):
                source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")[0]
                if source.startswith("."):
                    self.assertTrue((COMPOSE / source).exists(), f"{name}: {volume}")

    def test_everything_is_closed_and_local(self):
        for name, service in self.services.items():
            with self.subTest(service=name):
                self.assertEqual(service["cap_drop"], ["ALL"])
                self.assertEqual(service["security_opt"], ["no-new-privileges:true"])
                self.assertNotRegex(service["image"], r":latest$|^[^:]+$")
                for port in service.get("ports", []):
                    self.assertTrue(port.startswith("127.0.0.1:"), port)

    def test_images_are_those_of_the_dockerfile_and_the_chart(self):
        chart = yaml.safe_load((ROOT / "helm/tessera/values.yaml").read_text())["images"]
        version = yaml.safe_load((ROOT / "helm/tessera/Chart.yaml").read_text())["appVersion"]
        self.assertEqual(self.services["coordinator"]["image"], f"{chart['coordinator']}:{version}")
        self.assertEqual(self.services["rank-0"]["image"], f"{chart['workerCpu']}:{version}")
        for service in ("coordinator", "rank-0", "rank-1"):
            self.assertIn(f" AS {self.services[service]['build']['target']}\n", DockerfileTest.text)

    def test_compose_reads_it(self):
        import tools
        with tools.Lock():
            program = tools.CACHE / "bin/compose-v2.6.0"
            if not program.exists():
                tools.run_go("install", "github.com/compose-spec/compose-go/v2/cmd@v2.6.0")
                (tools.CACHE / "bin/cmd").rename(program)
        done = subprocess.run([program, COMPOSE / "compose.yaml"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("/models/demo-model", done.stdout)

    def test_prometheus_reads_its_configuration(self):
        promtool = shutil.which("promtool") or shutil.which("promtool", path=str(UNPACKED))
        if promtool is None:
            self.skipTest(f"promtool is neither on PATH nor in {UNPACKED}")
        with tempfile.TemporaryDirectory() as folder:
            for path in (COMPOSE / "prometheus.yml", ROOT / "deploy/prometheus/recording.yml", ROOT / "deploy/prometheus/alerts.yml"):
                shutil.copy(path, folder)
            done = subprocess.run([promtool, "check", "config", "prometheus.yml"], cwd=folder, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertIn("2 rule files found", done.stdout)

    def test_grafana_finds_dashboards_and_data(self):
        source = yaml.safe_load((COMPOSE / "grafana/datasource.yml").read_text())["datasources"][0]
        self.assertEqual(source["url"], "http://prometheus:9090")
        provider = yaml.safe_load((COMPOSE / "grafana/dashboards.yml").read_text())["providers"][0]
        targets = [volume.split(":")[1] for volume in self.services["grafana"]["volumes"]]
        self.assertIn(provider["options"]["path"], targets)


class SystemdTest(unittest.TestCase):
    units = sorted(SYSTEMD.glob("*.service"))

    def command(self, unit):
        return shlex.split(re.search(r"^ExecStart=(.+)$", unit.read_text(), re.M).group(1))

    def test_flags_are_known(self):
        self.assertEqual(len(self.units), 2)
        for unit in self.units:
            program, *words = self.command(unit)
            self.assertLessEqual(flags(words), known_flags(pathlib.Path(program).name))
            example = SYSTEMD / (unit.name.split(".")[0].removeprefix("tessera-").rstrip("@") + ".env.example")
            variables = dict(re.findall(r"^([A-Z_]+)=(.*)$", example.read_text(), re.M))
            self.assertLessEqual(flags(variables["FLAGS"].split()), known_flags(pathlib.Path(program).name))
            given = set(variables) | set(re.findall(r"(\w+)=", re.search(r"^Environment=(.+)$", unit.read_text(), re.M).group(1)))
            self.assertLessEqual(set(re.findall(r"\$\{?([A-Z_]+)\}?", " ".join(words))), given)

    def test_the_time_to_stop_is_the_drain_and_more(self):
        text = (SYSTEMD / "tessera-coordinator.service").read_text()
        drain = int(re.search(r"--drain-seconds=(\d+)", text).group(1))
        self.assertEqual(int(re.search(r"TimeoutStopSec=(\d+)", text).group(1)), drain + 15)

    def test_systemd_reads_them(self):
        if shutil.which("systemd-analyze") is None:
            self.skipTest("no systemd-analyze here")
        with tempfile.TemporaryDirectory() as folder:
            for unit in self.units:
                # The programs where they are, and users that there are.
                text = unit.read_text().replace("/usr/local/bin", str(BIN.resolve())).replace("=tessera\n", "=daemon\n")
                path = pathlib.Path(folder) / unit.name.replace("@.", "@0.")
                path.write_text(text)
                done = subprocess.run(["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True)
                complaints = [line for line in done.stderr.splitlines() if unit.name.split("@")[0].split(".")[0] in line]
                self.assertEqual(complaints, [])
                scored = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=30", path], capture_output=True, text=True)
                print(scored.stdout.strip().splitlines()[-1])
                self.assertEqual(scored.returncode, 0, scored.stdout[-400:] + scored.stderr)


if __name__ == "__main__":
    unittest.main()
