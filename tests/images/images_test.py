"""The images' roots, assembled and run: what the chart's demo starts, as the user and in the file systems it would get.

    images_test.py BUILD [CUDA_BUILD]

There is no container engine here. Every container of helm's rendered demo (tests/helm/golden/demo-cpu.yaml) runs with its
own arguments in its own root: read-only, user 65532, no capability, nothing but /tmp, /proc, a few devices and the pod's
/dev/shm beside it, in a network of its own. As root only; without root, or without namespaces, that part is skipped.
"""

import ctypes
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/helm/golden/demo-cpu.yaml"
INSIDE = "TESSERA_IMAGES_TEST_INSIDE"
BUILDS = [pathlib.Path(one).resolve() for one in sys.argv[1:] if not one.startswith("-")]
sys.argv[1:] = [one for one in sys.argv[1:] if one.startswith("-")]
MEGABYTES = {"coordinator": 80, "worker-cpu": 120, "worker-cuda": 500}
# What CUDA forces into the image, whatever we do: not counted.
MATH = re.compile(r"libcublasLt\.so")
USER = 65532
READY_SECONDS = 60
NO_NEW_PRIVILEGES, DROP_FROM_BOUNDING_SET, CAPABILITIES = 38, 24, 41
LIBC = ctypes.CDLL(None)


def assemble(image, build, folder):
    root = folder / image
    done = subprocess.run([sys.executable, "-B", ROOT / "deploy/images/assemble.py", image, build, root], capture_output=True, text=True)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    print(done.stdout.strip())
    return root


ROOTS = {}


def setUpModule():
    folder = pathlib.Path(unittest.enterModuleContext(tempfile.TemporaryDirectory()))
    folder.chmod(0o755)
    for image in ("coordinator", "worker-cpu"):
        ROOTS[image] = assemble(image, BUILDS[0], folder)
    if len(BUILDS) > 1 and (BUILDS[1] / "bin/tessera-worker").exists():
        ROOTS["worker-cuda"] = assemble("worker-cuda", BUILDS[1], folder)


class ContentsTest(unittest.TestCase):
    def test_sizes(self):
        for image, root in ROOTS.items():
            with self.subTest(image=image):
                files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
                counted = sum(path.stat().st_size for path in files if not MATH.match(path.name)) / 1e6
                print(f"{image}: {counted:.1f} MB, at most {MEGABYTES[image]}")
                self.assertLessEqual(counted, MEGABYTES[image])

    def test_nothing_that_is_not_needed(self):
        for image, root in ROOTS.items():
            with self.subTest(image=image):
                programs = {path.name for path in (root / "usr/bin").iterdir()}
                self.assertEqual(programs, {"tessera-coordinator", "tessera"} if image == "coordinator" else {"tessera-worker"})
                self.assertFalse((root / "usr/sbin").exists())
                special = [path for path in root.rglob("*") if path.lstat().st_mode & 0o6000]
                self.assertEqual(special, [], "setuid or setgid")

    def test_sbom_and_licences_name_everything(self):
        for image, root in ROOTS.items():
            with self.subTest(image=image):
                bill = json.loads(root.with_name(root.name + ".spdx.json").read_text())
                self.assertEqual(bill["spdxVersion"], "SPDX-2.3")
                names = {one["name"]: one for one in bill["packages"]}
                identifiers = [one["SPDXID"] for one in bill["packages"]]
                self.assertEqual(len(identifiers), len(set(identifiers)))
                self.assertEqual({one["relatedSpdxElement"] for one in bill["relationships"]}, set(identifiers))
                for wanted in ("libc6", "libgrpc++1", "libssl3", "ca-certificates", f"tessera-{image}"):
                    self.assertTrue([name for name in names if name.startswith(wanted)], wanted)
                self.assertEqual("tokenizers" in names, image == "coordinator")
                if image == "coordinator":
                    lock = (ROOT / "coordinator/text/rust/Cargo.lock").read_text()
                    self.assertIn(f'name = "tokenizers"\nversion = "{names["tokenizers"]["versionInfo"]}"', lock)
                for one in bill["packages"]:
                    if "pkg:deb" in one["externalRefs"][0]["referenceLocator"]:
                        self.assertGreater((root / "usr/share/doc" / one["name"] / "copyright").stat().st_size, 100)

    def test_every_library_is_there_and_of_a_package(self):
        for image, root in ROOTS.items():
            for program in (root / "usr/bin").iterdir():
                needed = subprocess.run(["objdump", "-p", program], capture_output=True, text=True, check=True).stdout
                for name in re.findall(r"NEEDED\s+(\S+)", needed):
                    self.assertTrue(list((root / "usr").rglob(name)), f"{image}: {program.name} needs {name}")


def bring_loopback_up():
    with socket.socket() as any_socket:
        flags = struct.pack("16sh14x", b"lo", 0x1 | 0x40)  # IFF_UP, IFF_RUNNING
        fcntl.ioctl(any_socket, 0x8914, flags)  # SIOCSIFFLAGS


def mount(*arguments):
    subprocess.run(["mount", *map(str, arguments)], check=True)


class Container:
    """One container of a rendered pod."""

    def __init__(self, root, folder, shm, hosts):
        self.root = folder
        folder.mkdir()
        (root / "etc/hosts").touch()
        (root / "dev/shm").mkdir(exist_ok=True)
        for device in ("null", "zero", "random", "urandom"):
            (root / "dev" / device).touch()
        mount("--bind", root, folder)
        for device in ("null", "zero", "random", "urandom"):
            mount("--bind", f"/dev/{device}", folder / "dev" / device)
        mount("--bind", shm, folder / "dev/shm")
        mount("--bind", hosts, folder / "etc/hosts")
        mount("-t", "proc", "proc", folder / "proc")
        mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", folder / "tmp")
        mount("-o", "remount,bind,ro", folder)

    def become(self):
        """What an engine does between fork and exec for the chart's security context."""
        os.chroot(self.root)
        os.chdir("/")
        for capability in range(CAPABILITIES):
            LIBC.prctl(DROP_FROM_BOUNDING_SET, capability, 0, 0, 0)
        os.setgroups([])
        os.setgid(USER)
        os.setuid(USER)
        LIBC.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)

    def start(self, container, environment, log):
        command = container["command"] + container["args"]
        for name, value in environment.items():
            command = [one.replace(f"$({name})", value) for one in command]
        return subprocess.Popen(command, env=environment, preexec_fn=self.become, stdout=subprocess.PIPE if log is None else log,
                                stderr=subprocess.STDOUT, text=True)


@unittest.skipUnless(os.environ.get(INSIDE), "runs inside namespaces, see main")
class RunTest(unittest.TestCase):
    def setUp(self):
        found = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(GOLDEN.read_text()) if one}
        self.service = found["Service", "demo-tessera"]
        self.coordinator = found["StatefulSet", "demo-tessera-coordinator"]["spec"]["template"]["spec"]
        self.group = found["StatefulSet", "demo-tessera-group"]["spec"]["template"]["spec"]
        self.asker = found["Pod", "demo-tessera-test"]["spec"]
        self.work = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.work.chmod(0o755)
        shm = self.work / "shm"
        shm.mkdir()
        size = next(one["emptyDir"]["sizeLimit"] for one in self.group["volumes"] if one["name"] == "shm")
        mount("-t", "tmpfs", "-o", f"mode=1777,size={size.rstrip('i').lower()}", "tmpfs", shm)
        hosts = self.work / "hosts"
        hosts.write_text("127.0.0.1 localhost demo-tessera demo-tessera-coordinator-0.demo-tessera-coordinator\n")
        self.log = open(self.work / "log", "w+")
        self.running = []
        self.first = Container(ROOTS["coordinator"], self.work / "coordinator", shm, hosts)
        self.ranks = [Container(ROOTS["worker-cpu"], self.work / one["name"], shm, hosts) for one in self.group["containers"]]
        self.addCleanup(self.stop)

    def stop(self):
        for process in self.running:
            if process.poll() is None:
                process.kill()
                process.wait()
        self.log.close()
        # The mounts go with the namespace; what is below them must not be deleted with the folder.
        for folder in [*(one.root for one in (self.first, *self.ranks)), self.work / "shm"]:
            subprocess.run(["umount", "--recursive", folder], check=True)

    def start(self, inside, container, environment):
        process = inside.start(container, environment, self.log)
        self.running.append(process)
        return process

    def start_rank(self, index):
        return self.start(self.ranks[index], self.group["containers"][index],
                          {"TESSERA_POOL": "0", "TESSERA_POD": "demo-tessera-group-0", "HF_HUB_OFFLINE": "1"})

    def logged(self):
        self.log.flush()
        return (self.work / "log").read_text()

    def status(self, path):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:8000{path}", timeout=5).status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def wait(self, path, wanted):
        until = time.monotonic() + READY_SECONDS
        while self.status(path) != wanted:
            self.assertLess(time.monotonic(), until, f"{path} is not {wanted}:\n{self.logged()}")
            for process in self.running:
                self.assertIn(process.poll(), (None, -signal.SIGKILL), self.logged())
            time.sleep(0.1)

    def wait_health(self, serving):
        """Until the kubelet's gRPC probe sees it; the doors look at the group four times a second."""
        import grpc
        until = time.monotonic() + 5
        with grpc.insecure_channel("127.0.0.1:50052") as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            while check(b"", timeout=5) != (b"\x08\x01" if serving else b"\x08\x02"):
                self.assertLess(time.monotonic(), until, f"serving is not {serving}")
                time.sleep(0.1)

    def ask(self):
        body = json.dumps({"model": "demo-model", "messages": [{"role": "user", "content": "What is a KV cache?"}], "max_tokens": 16,
                           "temperature": 0}).encode()
        request = urllib.request.Request("http://127.0.0.1:8000/v1/chat/completions", body, {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request, timeout=60))["choices"][0]["message"]["content"]

    def test_the_chart_s_demo(self):
        coordinator = self.start(self.first, self.coordinator["containers"][0], {"HF_HUB_OFFLINE": "1"})
        self.wait("/livez", 200)
        self.assertEqual(self.status("/readyz"), 503)
        self.wait_health(False)
        workers = [self.start_rank(index) for index in range(len(self.ranks))]
        self.assertEqual(len(workers), 2)
        self.wait("/readyz", 200)
        self.wait_health(True)
        for process in (coordinator, *workers):
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            self.assertIn(f"Uid:\t{USER}\t{USER}\t{USER}\t{USER}", status)
            self.assertRegex(status, r"(?m)^CapEff:\t0+$")
        answer = self.ask()
        self.assertGreater(len(answer), 8)

        # `helm test`, in the coordinator's image.
        container = self.asker["containers"][0]
        done = self.first.start(container, {}, None)
        said, _ = done.communicate(timeout=60)
        self.assertEqual(done.returncode, 0, said)
        self.assertGreater(len(said.strip()), 3)

        # A container that dies starts over under its name; the other rank keeps its weights and its process.
        workers[1].kill()
        workers[1].wait()
        self.wait("/readyz", 503)
        self.start_rank(1)
        self.wait("/readyz", 200)
        self.assertIsNone(workers[0].poll())
        self.assertEqual(self.ask(), answer)

        coordinator.terminate()
        self.assertEqual(coordinator.wait(timeout=30), 0, self.logged())
        self.assertEqual(workers[0].wait(timeout=30), 0)

    def test_helm_test_fails_where_nothing_serves(self):
        done = self.first.start(self.asker["containers"][0], {}, None)
        said, _ = done.communicate(timeout=60)
        self.assertNotEqual(done.returncode, 0, said)


def main():
    if os.geteuid() == 0 and INSIDE not in os.environ and shutil.which("unshare"):
        # Pids are not unshared: /proc is mounted for each container, and the test looks at its processes.
        inside = ["unshare", "--mount", "--net", "--ipc", "--propagation", "private"]
        if subprocess.run([*inside, "true"], capture_output=True).returncode == 0:
            os.execvpe("unshare", [*inside, sys.executable, "-B", __file__, *map(str, BUILDS), *sys.argv[1:]], {**os.environ, INSIDE: "1"})
    if INSIDE in os.environ:
        bring_loopback_up()
    else:
        print("the roots are not run: that needs root and namespaces")
    unittest.main()


if __name__ == "__main__":
    main()
