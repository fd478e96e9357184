"""What the chart makes of its values: lint, refusals, and every promise of helm/README.md as a test on rendered objects."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest

import yaml

from rendering import (CHART, EVERYTHING, EXAMPLES, REFUSED, RENDERED, ROOT, Refused, helm, objects,
                       pod_templates, text)

COORDINATOR = ("StatefulSet", "demo-tessera-coordinator")
GROUP = ("StatefulSet", "demo-tessera-group")
LWS_GROUP = ("LeaderWorkerSet", "demo-tessera-group")
TWO_NODES = 'parallel={"tensor": 8, "nodes": 2}'


def pod(thing):
    spec = thing["spec"]
    template = spec["leaderWorkerTemplate"]["workerTemplate"] if thing["kind"] == "LeaderWorkerSet" else spec["template"]
    return template["spec"]


class PackageTest(unittest.TestCase):
    def test_lint(self):
        for values in [None, EVERYTHING, *RENDERED]:
            with self.subTest(values=values and values.name):
                helm("lint", "--strict", CHART, "--kube-version", "1.34.4", *(["--values", values] if values else []))

    def test_version_is_that_of_the_tree(self):
        version = re.search(r"project\(tessera VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text()).group(1)
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        self.assertEqual((chart["version"], chart["appVersion"]), (version, version))

    def test_package_holds_the_rules_and_dashboards_of_deploy(self):
        with tempfile.TemporaryDirectory() as folder:
            helm("package", CHART, "--destination", folder)
            (package,) = pathlib.Path(folder).iterdir()
            with tarfile.open(package) as tar:
                for name, source in [*((f"{one}.yml", ROOT / f"deploy/prometheus/{one}.yml") for one in ("alerts", "recording")),
                                     *((f"dashboards/{path.name}", path) for path in (ROOT / "deploy/grafana").glob("*.json"))]:
                    with self.subTest(file=name):
                        packed = tar.extractfile(f"tessera/files/{name}").read()
                        self.assertEqual(packed, source.read_bytes())
            self.assertGreaterEqual(len(list((ROOT / "deploy/grafana").glob("*.json"))), 6)
            self.assertIn("StatefulSet", text(chart=package))

    def test_every_value_is_described_and_in_the_schema(self):
        lines = (CHART / "values.yaml").read_text().splitlines()
        schema = json.loads((CHART / "values.schema.json").read_text())

        def walk(values, node, path):
            self.assertEqual(set(values) | ({"global"} if not path else set()), set(node["properties"]), path)
            for key, value in values.items():
                inner = node["properties"][key]
                if inner.get("properties") and key != "resources":
                    walk(value, inner, [*path, key])

        walk(yaml.safe_load("\n".join(lines)), schema, [])
        for number, line in enumerate(lines):
            match = re.match(r"( *)([A-Za-z]+):( .*)?$", line)
            if not match or (match.group(3) is None and not re.match(r"^ +requests|^ +limits", line)):
                continue  # a section; what is in it is described
            if re.match(r" +(requests|limits|nginx\.)", line):
                continue
            above = number - 1
            while re.match(r" *# (?!-- )", lines[above]):
                above -= 1
            self.assertRegex(lines[above], r"^ *# -- ", f"values.yaml:{number + 1} has no description")


class RefusalTest(unittest.TestCase):
    def refused(self, reason, *sets, **more):
        with self.assertRaises(Refused) as caught:
            text(sets=sets, **more)
        self.assertIn(reason, str(caught.exception))

    def test_schema(self):
        for wrong, reason in [
                ('replicas=0', "replicas"), ('replica=1', "replica"), ('engine={"kvMem": "1GiB"}', "kvMem"),
                ('engine={"quantize": "int4"}', "quantize"), ('parallel={"tensor": 3}', "tensor"),
                ('worker={"device": "tpu"}', "device"), ('model={"uri": "s3://bucket"}', "uri"),
                ('model={"uri": "pvc://"}', "uri"), ('model={"name": "a/b"}', "name"),
                ('podSecurity={"user": 0}', "user"), ('engine={"kvMemory": "lots"}', "kvMemory"),
                ('autoscaling={"minReplicas": 0}', "minReplicas"), ('engine={"extraArgs": ["oops"]}', "extraArgs"),
                ('drain={"seconds": -1}', "seconds"), ('auth={"key": "a b"}', "key"), ('tls={"mode": "secret"}', "tls")]:
            with self.subTest(wrong=wrong):
                self.refused(reason, wrong)

    def test_what_does_not_go_together(self):
        self.refused("install it", 'workload={"kind": "LeaderWorkerSet"}', apis=())
        self.refused("do not divide", 'parallel={"tensor": 2, "nodes": 4}')
        self.refused("works with LeaderWorkerSet only", 'workload={"exclusiveTopology": "zone"}')
        self.refused("needs LeaderWorkerSet", TWO_NODES, 'autoscaling={"enabled": true}', apis=())
        self.refused("more than autoscaling.maxReplicas", 'autoscaling={"enabled": true, "minReplicas": 5}')
        self.refused("rowsMax", 'engine={"rowsMax": 512, "tokensMax": 256}')
        self.refused("admin.existingSecret", 'admin={"enabled": true}')
        self.refused("claimTemplate", 'worker={"device": "cuda", "gpu": {"allocation": "dra"}}')
        self.refused("demo-model", 'model={"name": "other"}')
        self.refused("parentRefs", 'gateway={"enabled": true}')
        self.refused("1.31", kube="1.30.0")

    def test_examples_that_cannot_run_yet_are_refused_by_reason(self):
        for name, reason in REFUSED.items():
            self.assertIn("NOT YET", (CHART / "examples" / name).read_text().splitlines()[0])
            self.refused(reason, values=CHART / "examples" / name)
        self.assertEqual(len(EXAMPLES), 6)


class CoordinatorTest(unittest.TestCase):
    def test_one_per_pool(self):
        for replicas in (1, 3):
            found = objects(sets=[f"replicas={replicas}"])
            self.assertEqual(found[COORDINATOR]["spec"]["replicas"], replicas)
            self.assertEqual(found[GROUP]["spec"]["replicas"], replicas)

    def test_probes(self):
        container = pod(objects()[COORDINATOR])["containers"][0]
        self.assertEqual(container["readinessProbe"]["grpc"], {"port": 50052})
        ports = {one["name"]: one["containerPort"] for one in container["ports"]}
        self.assertEqual(ports["health"], 50052)
        self.assertIn("--health-port=50052", container["args"])
        for probe in ("startupProbe", "livenessProbe"):  # not readiness: ranks that load must not kill it
            self.assertEqual(container[probe]["httpGet"]["path"], "/livez")

    def test_grace_is_computed(self):
        found = objects(sets=['drain={"preStopSeconds": 7, "seconds": 90, "rankSeconds": 40}'])
        coordinator, group = pod(found[COORDINATOR]), pod(found[GROUP])
        self.assertEqual(coordinator["terminationGracePeriodSeconds"], 7 + 90 + 15)
        self.assertEqual(coordinator["containers"][0]["lifecycle"]["preStop"], {"sleep": {"seconds": 7}})
        self.assertIn("--drain-seconds=90", coordinator["containers"][0]["args"])
        # Ranks go on for answers that end meanwhile, and have time to leave after that.
        self.assertEqual(group["containers"][0]["lifecycle"]["preStop"], {"sleep": {"seconds": 40}})
        self.assertEqual(group["terminationGracePeriodSeconds"], 40 + 15)

    def test_secrets_are_mounted_whole_so_that_they_reload(self):
        container = pod(objects(values=EVERYTHING)[COORDINATOR])["containers"][0]
        mounts = {one["mountPath"]: one for one in container["volumeMounts"]}
        self.assertIn("--api-keys=/etc/tessera/auth/keys.json", container["args"])
        self.assertNotIn("subPath", mounts["/etc/tessera/auth"])
        self.assertIn("--admin-token-file=/etc/tessera/admin/token", container["args"])
        self.assertIn("--price-file=/etc/tessera/prices/prices.yaml", container["args"])
        self.assertIn("--usage-dir=/var/lib/tessera/usage", container["args"])
        self.assertIn("/var/lib/tessera/usage", mounts)

    def test_labels_for_cost_tools_only_with_their_metrics(self):
        for compat, wanted in (("vllm", "vllm"), ("", None)):
            labels = objects(sets=[f'engine={{"metricsCompat": "{compat}"}}'])[COORDINATOR]["spec"]["template"]["metadata"]["labels"]
            self.assertEqual(labels.get("llm-d.ai/engine-type"), wanted)


class GroupTest(unittest.TestCase):
    def test_kind(self):
        self.assertIn(GROUP, objects())
        self.assertIn(LWS_GROUP, objects(sets=[TWO_NODES]))
        self.assertIn(LWS_GROUP, objects(sets=['workload={"kind": "LeaderWorkerSet"}']))
        fallback = objects(sets=[TWO_NODES, "replicas=2"], apis=())
        for pool in (0, 1):
            own = fallback["StatefulSet", f"demo-tessera-group-{pool}"]
            self.assertEqual(own["spec"]["replicas"], 2)
            self.assertEqual(own["spec"]["podManagementPolicy"], "Parallel")
            self.assertEqual(own["spec"]["selector"]["matchLabels"]["tessera.pool"], str(pool))
            (value,) = [one["value"] for one in pod(own)["containers"][0]["env"] if one["name"] == "TESSERA_POOL"]
            self.assertEqual(value, str(pool))

    def test_a_restart_leaves_the_others_alone(self):
        spec = objects(sets=[TWO_NODES])[LWS_GROUP]["spec"]
        self.assertEqual(spec["leaderWorkerTemplate"]["restartPolicy"], "None")
        self.assertEqual(spec["startupPolicy"], "LeaderCreated")
        self.assertEqual(spec["leaderWorkerTemplate"]["size"], 2)
        self.assertEqual(len(pod(objects(sets=[TWO_NODES])[LWS_GROUP])["containers"]), 4)

    def test_ranks_find_the_coordinator_of_their_pool(self):
        for sets, label in (([], "apps.kubernetes.io/pod-index"), ([TWO_NODES], "leaderworkerset.sigs.k8s.io/group-index")):
            found = objects(sets=sets)
            container = pod(found.get(GROUP) or found[LWS_GROUP])["containers"][0]
            (source,) = [one["valueFrom"] for one in container["env"] if one["name"] == "TESSERA_POOL"]
            self.assertEqual(source["fieldRef"]["fieldPath"], f"metadata.labels['{label}']")
            service = found["Service", "demo-tessera-coordinator"]
            self.assertEqual(found[COORDINATOR]["spec"]["serviceName"], service["metadata"]["name"])
            self.assertTrue(service["spec"]["publishNotReadyAddresses"])
            self.assertIn("--coordinator=demo-tessera-coordinator-$(TESSERA_POOL).demo-tessera-coordinator:50050", container["args"])

    def test_every_rank_has_a_name_a_gpu_and_the_same_shared_memory(self):
        spec = pod(objects(sets=['parallel={"tensor": 8}', 'worker={"device": "cuda"}'])[GROUP])
        names = [arg for one in spec["containers"] for arg in one["args"] if arg.startswith("--name=")]
        self.assertEqual(len(set(names)), 8)
        for container in spec["containers"]:
            self.assertEqual(container["resources"]["limits"]["nvidia.com/gpu"], "1")
            self.assertEqual(container["image"], "tessera/worker-cuda:0.1.0")
            self.assertIn({"name": "shm", "mountPath": "/dev/shm"}, container["volumeMounts"])
        self.assertIn({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}, spec["volumes"])
        self.assertEqual(spec["tolerations"][0]["key"], "nvidia.com/gpu")
        self.assertTrue(spec["shareProcessNamespace"])

    def test_resource_claims(self):
        spec = pod(objects(sets=['parallel={"tensor": 2}', 'worker={"device": "cuda", "gpu": {"allocation": "dra", "claimTemplate": "one"}}'])[GROUP])
        self.assertEqual([one["name"] for one in spec["resourceClaims"]], ["gpu-0", "gpu-1"])
        for rank, container in enumerate(spec["containers"]):
            self.assertEqual(container["resources"]["claims"], [{"name": f"gpu-{rank}"}])
            self.assertNotIn("nvidia.com/gpu", container["resources"]["limits"])

    def test_rdma(self):
        sets = ['worker={"device": "cuda", "rdma": {"enabled": true, "networks": "rail", "hca": "mlx5", "gidIndex": "3"}}']
        (what,) = [one for one in pod_templates(objects(sets=sets)) if one[0].startswith("StatefulSet demo-tessera-group")]
        container = what[3]["containers"][0]
        self.assertEqual(container["securityContext"]["capabilities"], {"drop": ["ALL"], "add": ["IPC_LOCK"]})
        self.assertEqual(container["resources"]["limits"]["rdma/hca"], "1")
        self.assertEqual(what[2]["k8s.v1.cni.cncf.io/networks"], "rail")
        self.assertIn({"name": "NCCL_IB_GID_INDEX", "value": "3"}, container["env"])


class ModelTest(unittest.TestCase):
    def check(self, uri, volume, sub_path=None):
        found = objects(sets=[f'model={{"name": "m", "uri": "{uri}"}}'])
        for key in (COORDINATOR, GROUP):
            spec = pod(found[key])
            self.assertIn({"name": "model", **volume}, spec["volumes"])
            (mount,) = [one for one in spec["containers"][0]["volumeMounts"] if one["name"] == "model"]
            self.assertEqual(mount, {"name": "model", "mountPath": "/models/m", "readOnly": True,
                                     **({"subPath": sub_path} if sub_path else {})})
        self.assertIn("--model=m=/models/m", pod(found[COORDINATOR])["containers"][0]["args"])
        self.assertIn("--model-root=/models/m", pod(found[GROUP])["containers"][0]["args"])
        return found

    def test_sources(self):
        self.check("pvc://disk", {"persistentVolumeClaim": {"claimName": "disk", "readOnly": True}})
        self.check("pvc://disk/a/b", {"persistentVolumeClaim": {"claimName": "disk", "readOnly": True}}, "a/b")
        self.check("hostpath:///srv/m", {"hostPath": {"path": "/srv/m", "type": "Directory"}})
        self.check("image://r.example.com/m:1", {"image": {"reference": "r.example.com/m:1", "pullPolicy": "IfNotPresent"}})

    def test_fetched(self):
        found = self.check("hf://org/name@v1", {"persistentVolumeClaim": {"claimName": "demo-tessera-models"}}, "org--name@v1")
        (job,) = [thing for (kind, _), thing in found.items() if kind == "Job"]
        (container,) = job["spec"]["template"]["spec"]["containers"]
        self.assertEqual(container["args"][:3], ["org/name", "v1", "/store/org--name@v1"])
        compile(container["command"][2], "fetch.py", "exec")
        wait = pod(found[GROUP])["initContainers"][0]
        compile(wait["command"][2], "wait", "exec")
        self.assertEqual(wait["command"][3], "/store/org--name@v1")
        claim = found["PersistentVolumeClaim", "demo-tessera-models"]
        self.assertEqual(claim["metadata"]["annotations"]["helm.sh/resource-policy"], "keep")
        self.assertEqual(container["command"][2].strip(), (CHART / "files/fetch.py").read_text().strip())
        other = objects(sets=['model={"name": "m", "uri": "hf://org/name@v2"}'])
        self.assertNotIn(("Job", job["metadata"]["name"]), other)  # a job cannot change

    def fetch(self, folder, files):
        """The job's program with a hub that has these files."""
        (folder / "huggingface_hub.py").write_text(
            "import os\n"
            "def snapshot_download(repository, revision, local_dir, allow_patterns):\n"
            "    os.makedirs(local_dir, exist_ok=True)\n"
            f"    for name in {files!r}:\n"
            "        open(os.path.join(local_dir, name), 'w').write(repository + '@' + revision)\n")
        return subprocess.run([sys.executable, "-c", (CHART / "files/fetch.py").read_text(), "org/name", "v1", folder / "org--name@v1", ""],
                              capture_output=True, text=True, env={"PYTHONPATH": str(folder), "PATH": "/usr/bin"})

    def test_a_model_appears_when_it_is_whole(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            done = self.fetch(folder, ["config.json"])
            self.assertEqual(done.returncode, 1)
            self.assertIn("no safetensors", done.stderr)
            self.assertFalse((folder / "org--name@v1").exists())
            self.assertEqual(self.fetch(folder, ["config.json", "model.safetensors"]).returncode, 0)
            self.assertEqual((folder / "org--name@v1/model.safetensors").read_text(), "org/name@v1")
            again = self.fetch(folder, [])
            self.assertEqual(again.returncode, 0)
            self.assertIn("there already", again.stdout)
            wait = pod(objects(sets=['model={"name": "m", "uri": "hf://org/name@v1", "hf": {"waitSeconds": 1}}'])[GROUP])["initContainers"][0]
            for directory, code in ((folder / "org--name@v1", 0), (folder / "other", 1)):
                done = subprocess.run([sys.executable, "-c", wait["command"][2], directory], capture_output=True, timeout=30)
                self.assertEqual(done.returncode, code)


class AroundTest(unittest.TestCase):
    def test_budgets_are_whole_groups(self):
        self.assertNotIn(("PodDisruptionBudget", "demo-tessera-group"), objects())
        self.assertNotIn(("PodDisruptionBudget", "demo-tessera-group"), objects(sets=['autoscaling={"enabled": true}', "replicas=3"]))
        found = objects(sets=[TWO_NODES, "replicas=3"])
        self.assertEqual(found["PodDisruptionBudget", "demo-tessera-group"]["spec"]["minAvailable"], (3 - 1) * 2)
        self.assertEqual(found["PodDisruptionBudget", "demo-tessera-coordinator"]["spec"]["minAvailable"], 2)

    def test_scalers_agree(self):
        for kind in ("keda", "hpa"):
            found = objects(values=EVERYTHING, sets=[f'autoscaling.kind="{kind}"'])
            object_kind = {"keda": "ScaledObject", "hpa": "HorizontalPodAutoscaler"}[kind]
            pair = [found[object_kind, name]["spec"] for name in ("demo-tessera-coordinator", "demo-tessera-group")]
            targets = [one.pop("scaleTargetRef") for one in pair]
            self.assertEqual(pair[0], pair[1])
            self.assertEqual([one["kind"] for one in targets], ["StatefulSet", "LeaderWorkerSet"])
            for target in targets:
                self.assertNotIn("replicas", found[target["kind"], target["name"]]["spec"])
                self.assertEqual(target["apiVersion"], found[target["kind"], target["name"]]["apiVersion"])

    def test_queries_name_metrics_that_there_are(self):
        reference = (ROOT / "coordinator/telemetry/METRICS.md").read_text()
        found = objects(values=EVERYTHING)
        for trigger in found["ScaledObject", "demo-tessera-group"]["spec"]["triggers"]:
            name = re.search(r"tessera_\w+", trigger["metadata"]["query"]).group(0)
            self.assertIn(f"`{name}`", reference)
            self.assertEqual(trigger["metricType"], "AverageValue")

    def test_rules_and_dashboards_are_those_of_deploy(self):
        found = objects(values=EVERYTHING)
        for name in ("recording", "alerts"):
            wanted = yaml.safe_load((ROOT / f"deploy/prometheus/{name}.yml").read_text())["groups"]
            for rule in (rule for group in wanted for rule in group["rules"] if "alert" in rule):
                rule["annotations"]["runbook_url"] = "https://git.example.com/tessera/" + rule["annotations"]["runbook_url"]
            groups = found["PrometheusRule", f"demo-tessera-{name}"]["spec"]["groups"]
            self.assertEqual(groups, wanted)
            # They are a map by name to the API server.
            self.assertEqual(len({group["name"] for group in groups}), len(groups))
        for path in (ROOT / "deploy/grafana").glob("*.json"):
            name = "demo-tessera-dashboard-" + path.stem.replace("_", "-")
            self.assertEqual(json.loads(found["ConfigMap", name]["data"][f"tessera-{path.name}"]), json.loads(path.read_text()))

    def test_the_monitor_uses_the_job_that_the_alerts_know(self):
        endpoint = objects(values=EVERYTHING)["PodMonitor", "demo-tessera"]["spec"]["podMetricsEndpoints"][0]
        self.assertIn({"action": "replace", "targetLabel": "job", "replacement": "tessera"}, endpoint["relabelings"])
        self.assertIn('up{job="tessera"}', (ROOT / "deploy/prometheus/alerts.yml").read_text())

    def test_network_policies(self):
        found = objects(sets=[TWO_NODES])
        group = found["NetworkPolicy", "demo-tessera-group"]["spec"]
        (only,) = group["ingress"]
        self.assertEqual(only["from"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"], "worker")
        self.assertNotIn("ports", only)  # ranks choose their ports
        alone = objects()["NetworkPolicy", "demo-tessera-group"]["spec"]
        self.assertIn("Ingress", alone["policyTypes"])
        self.assertNotIn("ingress", alone)  # nobody dials a rank
        rules = found["NetworkPolicy", "demo-tessera-coordinator"]["spec"]["ingress"]
        to_workers_port = [one for one in rules if {"port": 50050, "protocol": "TCP"} in one["ports"]]
        self.assertEqual(len(to_workers_port), 1)
        self.assertEqual(to_workers_port[0]["from"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"], "worker")
        for rule in found["NetworkPolicy", "demo-tessera-coordinator"]["spec"]["egress"]:
            self.assertEqual({port["port"] for port in rule["ports"]}, {53})

    def test_services_and_policies_find_their_pods(self):
        found = objects(values=EVERYTHING)
        labels = [one[1] for one in pod_templates(found)]
        selectors = [(key, thing["spec"].get("selector", {})) for key, thing in found.items() if key[0] == "Service"]
        selectors += [(key, thing["spec"]["podSelector"]["matchLabels"]) for key, thing in found.items() if key[0] == "NetworkPolicy"]
        selectors += [(key, thing["spec"]["selector"]["matchLabels"]) for key, thing in found.items()
                      if key[0] in ("StatefulSet", "PodDisruptionBudget", "PodMonitor")]
        self.assertGreater(len(selectors), 7)
        for key, selector in selectors:
            with self.subTest(of=key):
                self.assertTrue(any(selector.items() <= one.items() for one in labels), selector)

    def notes(self, *sets):
        """NOTES.txt, which Helm shows only with a cluster: here inside an object of a copy of the chart."""
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder) / "tessera"
            shutil.copytree(CHART, copy)
            (copy / "templates/NOTES.txt").rename(copy / "notes")
            (copy / "templates/notes.yaml").write_text(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\ndata:\n"
                '  text: {{ tpl (.Files.Get "notes") . | toJson }}\n')
            return objects(sets=sets, chart=copy)["ConfigMap", "notes"]["data"]["text"]

    def test_notes_warn(self):
        plain = self.notes()
        for warning in ("Nothing here is encrypted", "whoever reaches the Service may call", "One replica", "only pods of this namespace"):
            self.assertIn(warning, plain)
        self.assertNotIn("kvMemory", plain)
        gpu = self.notes('worker={"device": "cuda", "shmSize": "1Gi", "rdma": {"enabled": true}}', 'parallel={"tensor": 4}')
        for warning in ("engine.kvMemory is 0", "less than 1Gi for each of the 4 ranks", "IPC_LOCK"):
            self.assertIn(warning, gpu)
        closed = self.notes('auth={"existingSecret": "keys"}', "replicas=2")
        self.assertNotIn("whoever reaches the Service", closed)
        self.assertNotIn("One replica", closed)
        self.assertIn("each coordinator's own", closed)
        self.assertIn("are cut off when a replica is scaled down", self.notes('autoscaling={"enabled": true}'))


if __name__ == "__main__":
    unittest.main()
