"""The chart against a real kube-apiserver and etcd: installed, upgraded, applied server-side, its pods admitted.

For tests/nightly.sh: building the two takes half an hour once. There are no controllers and no nodes, so nothing runs; what
is tested is what the API server refuses: unknown fields, immutable ones, values out of range, pods outside the restricted
profile, which is enforced by its own admission.
"""

import json
import os
import pathlib
import secrets
import socket
import ssl
import subprocess
import tempfile
import time
import unittest
import urllib.error
import urllib.request

import yaml

import openapi
import tools
from rendering import CHART, EVERYTHING, RENDERED, pod_templates, text

START_SECONDS = 120
NAMESPACE = "models"
HOST_PATH_EXAMPLES = {"llama-3.1-405b-fp8-tp8.yaml"}
# Two groups of two nodes.
GROUPS = ["--set-json", 'parallel={"tensor": 8, "nodes": 2}', "--set-json", "replicas=2"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """etcd and kube-apiserver, until close()."""

    def __init__(self, folder):
        self.folder, self.running = folder, []
        self.token = secrets.token_hex(16)
        (folder / "tokens").write_text(f"{self.token},admin,admin,system:masters\n")
        key = folder / "account.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        etcd, peer, self.port = free_port(), free_port(), free_port()
        self.start("etcd", "--data-dir", folder / "etcd", "--listen-client-urls", f"http://127.0.0.1:{etcd}",
                   "--advertise-client-urls", f"http://127.0.0.1:{etcd}", "--listen-peer-urls", f"http://127.0.0.1:{peer}",
                   "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}", "--initial-cluster", f"default=http://127.0.0.1:{peer}")
        self.start("kube-apiserver", f"--etcd-servers=http://127.0.0.1:{etcd}", f"--secure-port={self.port}",
                   "--bind-address=127.0.0.1", f"--cert-dir={folder}/certificates", "--service-cluster-ip-range=10.0.0.0/24",
                   f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}",
                   "--service-account-issuer=https://test", f"--token-auth-file={folder}/tokens", "--authorization-mode=RBAC",
                   "--feature-gates=ImageVolume=true")
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": f"https://127.0.0.1:{self.port}", "insecure-skip-tls-verify": True}}],
            "users": [{"name": "test", "user": {"token": self.token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": NAMESPACE}}]}))

    def start(self, name, *arguments):
        with open(self.folder / f"{name}.log", "w") as log:
            self.running.append(subprocess.Popen([tools.need_server(name), *map(str, arguments)], stdout=log, stderr=log))

    def close(self):
        for process in reversed(self.running):
            process.terminate()
        for process in reversed(self.running):
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def call(self, method, path, body=None, kind="application/json"):
        request = urllib.request.Request(f"https://127.0.0.1:{self.port}{path}", json.dumps(body).encode() if body else None,
                                         {"Authorization": f"Bearer {self.token}", "Content-Type": kind}, method=method)
        try:
            with urllib.request.urlopen(request, context=ssl._create_unverified_context(), timeout=30) as answer:
                return json.load(answer) if method != "GET" or path != "/readyz" else answer.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()[:2000]}") from None

    def wait(self):
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                return self.call("GET", "/readyz")
            except (OSError, AssertionError):
                if time.monotonic() > until:
                    raise AssertionError((self.folder / "kube-apiserver.log").read_text()[-3000:]) from None
                time.sleep(0.5)

    def path(self, thing):
        """Where objects of this kind are, found in the server's own discovery."""
        version = thing["apiVersion"]
        base = f"/api/{version}" if "/" not in version else f"/apis/{version}"
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                for resource in self.call("GET", base)["resources"]:
                    if resource["kind"] == thing["kind"] and "/" not in resource["name"]:
                        inner = f"/namespaces/{NAMESPACE}" if resource["namespaced"] else ""
                        return f"{base}{inner}/{resource['name']}"
            except AssertionError:
                if time.monotonic() > until:
                    raise
            if time.monotonic() > until:
                raise AssertionError(f"the server has no {version} {thing['kind']}")
            time.sleep(0.2)

    def apply(self, thing):
        """Server-side apply, strict: a field that the server does not know is an error."""
        return self.call("PATCH", f"{self.path(thing)}/{thing['metadata']['name']}?fieldManager=test&force=true&fieldValidation=Strict",
                         thing, "application/apply-patch+yaml")


class ClusterTest(unittest.TestCase):
    maxDiff = None
    @classmethod
    def setUpClass(cls):
        cls.helm_program = tools.need("helm")
        for name in ("etcd", "kube-apiserver"):
            tools.need_server(name)
        folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.server = Server(folder)
        cls.addClassCleanup(cls.server.close)
        cls.server.wait()
        cls.server.call("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE, "labels": {
            "pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "latest"}}})
        for definition in openapi.crds():
            cls.server.apply(definition)
            for version in definition["spec"]["versions"]:
                if version["served"]:
                    cls.server.path({"apiVersion": f"{definition['spec']['group']}/{version['name']}", "kind": definition["spec"]["names"]["kind"]})

    def helm(self, *arguments):
        done = subprocess.run([self.helm_program, *map(str, arguments), "--namespace", NAMESPACE], capture_output=True, text=True,
                              timeout=120, env={**os.environ, "KUBECONFIG": str(self.server.kubeconfig)})
        errors = "\n".join(line for line in done.stderr.splitlines() if "found symbolic link" not in line)
        self.assertEqual(done.returncode, 0, errors)
        self.assertNotIn("Warning", errors)
        return done.stdout

    def get(self, kind, name, version="apps/v1"):
        return self.server.call("GET", f"{self.server.path({'apiVersion': version, 'kind': kind})}/{name}")

    def test_install_and_upgrade(self):
        self.helm("install", "up", CHART)
        self.addCleanup(self.helm, "uninstall", "up")
        self.assertEqual(self.get("StatefulSet", "up-tessera-group")["spec"]["replicas"], 1)
        # More of everything that may change in place.
        self.helm("upgrade", "up", CHART, "--set-json", "replicas=3", "--set-json", 'parallel={"tensor": 2}', "--set-json",
                  'auth={"existingSecret": "keys"}', "--set-json", 'images={"tag": "2"}')
        group = self.get("StatefulSet", "up-tessera-group")["spec"]
        self.assertEqual((group["replicas"], len(group["template"]["spec"]["containers"])), (3, 2))
        self.assertEqual(self.get("PodDisruptionBudget", "up-tessera-group", "policy/v1")["spec"]["minAvailable"], 2)
        self.helm("upgrade", "up", CHART, *GROUPS)  # the CRD is there: a LeaderWorkerSet takes over
        lws = self.get("LeaderWorkerSet", "up-tessera-group", "leaderworkerset.x-k8s.io/v1")["spec"]
        self.assertEqual((lws["replicas"], lws["leaderWorkerTemplate"]["size"], lws["leaderWorkerTemplate"]["restartPolicy"]), (2, 2, "None"))
        with self.assertRaises(AssertionError):
            self.get("StatefulSet", "up-tessera-group")
        self.helm("rollback", "up", "1")
        self.assertEqual(self.get("StatefulSet", "up-tessera-group")["spec"]["replicas"], 1)

    def test_server_side_apply_of_everything(self):
        for number, values in enumerate([EVERYTHING, *RENDERED]):
            with self.subTest(values=values.name):
                things = [one for one in yaml.safe_load_all(text(values, release=f"r{number}")) if one and one["kind"] != "Pod"]
                for thing in things:
                    self.server.apply(thing)
                for thing in things:  # what is applied again stays as it is, but for who applied it when
                    before = self.server.call("GET", f"{self.server.path(thing)}/{thing['metadata']['name']}")
                    after = self.server.apply(thing)
                    for one in (before, after):
                        for changing in ("resourceVersion", "managedFields"):
                            del one["metadata"][changing]
                    self.assertEqual(before, after)

    def test_pods_are_admitted_under_the_restricted_profile(self):
        self.server.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "demo-tessera"}})
        self.server.apply({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"}, "value": 1000})
        self.server.apply({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "nvidia"}, "handler": "nvidia"})
        admitted = 0
        for values in [None, EVERYTHING, *RENDERED]:
            objects = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(text(values)) if one}
            for what, labels, annotations, pod in pod_templates(objects):
                for claim in objects[tuple(what.split(" "))]["spec"].get("volumeClaimTemplates", []):
                    name = claim["metadata"]["name"]
                    pod["volumes"].append({"name": name, "persistentVolumeClaim": {"claimName": name}})
                with self.subTest(values=values and values.name, pod=what):
                    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe", "labels": labels, "annotations": annotations}, "spec": pod}
                    create = f"/api/v1/namespaces/{NAMESPACE}/pods?dryRun=All&fieldValidation=Strict"
                    if values and values.name in HOST_PATH_EXAMPLES and "test" not in what:
                        with self.assertRaisesRegex(AssertionError, "hostPath"):
                            self.server.call("POST", create, body)
                        continue
                    self.server.call("POST", create, body)
                    admitted += 1
        self.assertGreater(admitted, 12)


if __name__ == "__main__":
    unittest.main()
