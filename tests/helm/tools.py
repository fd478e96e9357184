"""Helm, kubeconform and what the Go modules of Kubernetes and its operators carry, pinned and built once into a cache.

Without Go, and without the tools in the cache, `need` raises unittest.SkipTest and says so. Nothing is fetched but from the
Go module proxy. TESSERA_TOOLS names another cache than ~/.cache/tessera-tools.
"""

import fcntl
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

CACHE = pathlib.Path(os.environ.get("TESSERA_TOOLS", pathlib.Path.home() / ".cache/tessera-tools"))
BUILD_SECONDS = 3600
PROGRAMS = {
    "helm": ("helm.sh/helm/v3/cmd/helm", "v3.21.4"),
    "kubeconform": ("github.com/yannh/kubeconform/cmd/kubeconform", "v0.7.0"),
}
SERVERS = {
    "kube-apiserver": ("k8s.io/kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver", "v1.34.3"),
    "etcd": ("go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3", "v3.6.8"),
}
# The Kubernetes version that Helm supposes where no cluster is; as its own releases are built.
LINKED = {"helm": "-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=34"}


def go():
    found = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if found is None:
        reason = f"no Go here: tests of the chart are skipped (install Go 1.26, or put the tools into {CACHE}/bin)"
        print(reason)
        raise unittest.SkipTest(reason)
    return found


def go_environment():
    # Two jobs at most: a test must leave room for others.
    return {**os.environ, "GOFLAGS": "-p=1 -modcacherw -mod=mod", "GOBIN": str(CACHE / "bin"), "GOTOOLCHAIN": "local"}


def run_go(*arguments, cwd=None):
    done = subprocess.run(["nice", "-n", "10", go(), *arguments], env=go_environment(), cwd=cwd, capture_output=True,
                          text=True, timeout=BUILD_SECONDS)
    if done.returncode != 0:
        raise unittest.SkipTest(f"go {' '.join(arguments)} failed, is the module proxy there? {done.stderr[-600:]}")
    return done.stdout


class Lock:
    """One builder at a time, whoever runs tests."""

    def __enter__(self):
        (CACHE / "bin").mkdir(parents=True, exist_ok=True)
        self.file = open(CACHE / "lock", "w")
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *_):
        self.file.close()


def need(name):
    """The path of a program, built if need be."""
    module, version = PROGRAMS[name]
    program = CACHE / "bin" / f"{name}-{version}"
    with Lock():
        if not program.exists():
            go()
            print(f"building {name} {version}, once", flush=True)
            run_go("install", "-ldflags", f"-s -w {LINKED.get(name, '')}", f"{module}@{version}")
            (CACHE / "bin" / name).rename(program)
    return str(program)


def need_server(name):
    """The path of kube-apiserver or etcd, which `go install` refuses to build: their modules replace parts of themselves."""
    module, package, version = SERVERS[name]
    program = CACHE / "bin" / f"{name}-{version}"
    with Lock(), tempfile.TemporaryDirectory() as folder:
        if not program.exists():
            go()
            print(f"building {name} {version}, once; this takes long", flush=True)
            source = json.loads(run_go("mod", "download", "-json", f"{module}@{version}", cwd=folder))["Dir"]
            parts = re.findall(r"^\s+(k8s\.io/\S+) => \./staging/", (pathlib.Path(source) / "go.mod").read_text(), re.M)
            lines = ["module build", "go 1.24.0", f"require {module} {version}"]
            lines += [f"replace {part} => {part} {version.replace('v1.', 'v0.')}" for part in parts]
            (pathlib.Path(folder) / "go.mod").write_text("\n".join(lines) + "\n")
            stamp = "k8s.io/component-base/version"
            flags = f"-s -w -X {stamp}.gitVersion={version} -X {stamp}.gitMajor=1 -X {stamp}.gitMinor={version.split('.')[1]}"
            run_go("build", "-trimpath", "-ldflags", flags, "-o", str(program), package, cwd=folder)
    return str(program)


def module_folder(module, version):
    """Where the module's source lies."""
    with Lock():
        # Some modules ask for a newer Go than is here, to be built, not to be read.
        listed = run_go("mod", "download", "-json", f"{module}@{version}", cwd=tempfile.gettempdir())
    return pathlib.Path(json.loads(listed)["Dir"])
