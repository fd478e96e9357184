"""Packs the tree with cpack, unpacks it elsewhere, and runs it where only the C library is left.

    bundle_test.py build/release        from ctest, label bundle
    bundle_test.py build/release --keep also prints where the tarball is

As root the programs run in a chroot that holds the bundle and glibc; else every library that they load is
looked up and must come from the bundle or be glibc's.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

BYTES_MAX = 64 << 20  # of the tarball, without CUDA's libraries
GLIBC = re.compile(r"^(ld-linux.*|libc|libm|libdl|librt|libpthread|libresolv|libanl|libutil|libnsl|"
                   r"libnss_\w+|linux-vdso)\.so")
LOADER = pathlib.Path("/lib64/ld-linux-x86-64.so.2")
READY_SECONDS = 120


def run(command, **more):
    done = subprocess.run(command, capture_output=True, text=True, **more)
    if done.returncode != 0:
        sys.exit(f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def pack(build, folder):
    run(["cpack", "--config", str(build / "CPackConfig.cmake"), "-B", str(folder)], cwd=folder)
    (tarball,) = folder.glob("tessera-*.tar.xz")
    print(f"{tarball.name}: {tarball.stat().st_size / 2**20:.1f} MiB")
    if tarball.stat().st_size > BYTES_MAX:
        sys.exit(f"the tarball is larger than {BYTES_MAX >> 20} MiB")
    return tarball


def loaded_libraries(program):
    """(name, path) of everything that the loader finds."""
    for line in run(["ldd", str(program)]).splitlines():
        found = re.match(r"\s*(\S+)(?: => (\S+))? ", line)
        if found and found.group(2) == "not":
            sys.exit(f"{program}: {line.strip()}")
        if found:
            yield pathlib.Path(found.group(1)).name, found.group(2)


def check_libraries(prefix):
    glibc = set()
    for program in sorted((prefix / "bin").iterdir()):
        for name, path in loaded_libraries(program):
            if GLIBC.match(name):
                if path:
                    glibc.add(path)
            elif not path or not pathlib.Path(path).resolve().is_relative_to(prefix.resolve()):
                sys.exit(f"{program.name} loads {name} from {path}, outside the bundle")
    return glibc


def make_root(prefix, glibc, root):
    """A file system with the bundle, glibc, and nothing else."""
    shutil.move(str(prefix), root / "opt")
    for path in [*glibc, str(LOADER)]:
        to = root / path.lstrip("/")
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.realpath(path), to)
    for folder in ("tmp", "dev/shm", "proc", "etc"):
        (root / folder).mkdir(parents=True)
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    for device in ("null", "urandom", "random", "zero"):
        (root / "dev" / device).touch()


class Jail:
    """Runs the bundle's programs; as root inside the root made for them."""

    def __init__(self, prefix, glibc, folder):
        self.chroot = os.geteuid() == 0
        self.root = folder / "root"
        self.mounts = []
        if not self.chroot:
            print("not root: programs run beside the system's libraries")
            self.prefix = prefix
            return
        self.root.mkdir()
        make_root(prefix, glibc, self.root)
        self.prefix = pathlib.Path("/opt")
        for source in ("/proc", "/dev/null", "/dev/urandom", "/dev/random", "/dev/zero", "/dev/shm"):
            subprocess.run(["mount", "--bind", source, str(self.root) + source], check=True)
            self.mounts.append(str(self.root) + source)

    def command(self, program, *arguments):
        command = [str(self.prefix / "bin" / program), *arguments]
        return [shutil.which("chroot"), str(self.root), *command] if self.chroot else command

    def outside(self, path):
        return self.root / path.lstrip("/") if self.chroot else pathlib.Path(path)

    def close(self):
        for mount in reversed(self.mounts):
            subprocess.run(["umount", "-l", mount], check=False)


def serve(jail, folder):
    model = str(jail.prefix / "share/tessera/deploy/demo-model")
    inside = "/tmp" if jail.chroot else str(folder)
    ready = f"{inside}/ready.json"
    server = subprocess.Popen(
        jail.command("tessera", "serve", model, "--device", "cpu", "--http-port", "0", "--grpc-port", "0",
                     "--health-port", "0", "--ready-file", ready),
        env={"PATH": "/", "HOME": inside}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + READY_SECONDS
        file = jail.outside(ready)
        while not (file.exists() and file.read_text().strip()):
            if server.poll() is not None or time.monotonic() > until:
                server.kill()
                sys.exit("the bundle's server did not come up:\n" + server.stderr.read())
            time.sleep(0.1)
        addresses = json.loads(file.read_text())
        body = json.dumps({"messages": [{"role": "user", "content": "What is a KV cache?"}],
                           "max_tokens": 8, "temperature": 0}).encode()
        request = urllib.request.Request(f"http://{addresses['http']}/v1/chat/completions", body,
                                         {"Content-Type": "application/json"})
        answer = json.load(urllib.request.urlopen(request, timeout=60))
        text = answer["choices"][0]["message"]["content"]
        if not text:
            sys.exit(f"an empty answer: {answer}")
        print(f"served: {text!r}")
    finally:
        server.terminate()
        server.wait(timeout=60)


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "packed").mkdir()
        (folder / "elsewhere").mkdir()
        tarball = pack(build, folder / "packed")
        run(["tar", "xf", str(tarball), "-C", str(folder / "elsewhere")])
        (prefix,) = (folder / "elsewhere").iterdir()
        if "--keep" in sys.argv:
            print(shutil.copy(tarball, build))
        jail = Jail(prefix, check_libraries(prefix), folder)
        try:
            for program in ("tessera", "tessera-coordinator", "tessera-worker"):
                print(program, run(jail.command(program, "--version")).strip())
            inspected = run(jail.command("tessera", "inspect",
                                         str(jail.prefix / "share/tessera/deploy/demo-model")))
            if "layers" not in inspected.lower():
                sys.exit(f"tessera inspect said:\n{inspected}")
            serve(jail, folder)
        finally:
            jail.close()


main()
