"""JSON schemas for kubeconform, from the sources of Kubernetes and of the operators that the chart speaks to.

Kubernetes publishes its API as api/openapi-spec/swagger.json in the Go module k8s.io/kubernetes; operators publish
CustomResourceDefinitions in theirs. `schemas(version)` writes one file per kind, strict: a field that is not there is an
error.
"""

import copy
import json
import shutil

import yaml

from tools import CACHE, module_folder

CRD_MODULES = [
    ("sigs.k8s.io/lws", "v0.8.0", "config/crd/bases/leaderworkerset.x-k8s.io_leaderworkersets.yaml"),
    ("github.com/prometheus-operator/prometheus-operator", "v0.85.0",
     "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml"),
    ("github.com/prometheus-operator/prometheus-operator", "v0.85.0",
     "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"),
    ("github.com/kedacore/keda/v2", "v2.21.0", "config/crd/bases/keda.sh_scaledobjects.yaml"),
    ("sigs.k8s.io/gateway-api", "v1.4.0", "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"),
    ("sigs.k8s.io/gateway-api", "v1.4.0", "config/crd/standard/gateway.networking.k8s.io_grpcroutes.yaml"),
]
LAYOUT = "{{.ResourceKind}}{{.KindSuffix}}.json"


def strict(node):
    """The node with every object closed, and integers or strings where Kubernetes takes both."""
    if isinstance(node, list):
        return [strict(one) for one in node]
    if not isinstance(node, dict):
        return node
    if node.get("x-kubernetes-int-or-string") or node.get("format") == "int-or-string":
        return {"type": ["integer", "string"]}
    closed = {key: strict(value) for key, value in node.items() if key not in ("format", "default", "properties")}
    if "properties" in node:
        closed["properties"] = {key: strict(value) for key, value in node["properties"].items()}
        if "additionalProperties" not in node and not node.get("x-kubernetes-preserve-unknown-fields"):
            closed["additionalProperties"] = False
    return closed


def file_name(kind, group, version):
    group = group.split(".")[0] if group else ""
    return f"{kind}-{group}-{version}.json".lower().replace("--", "-")


def write_kubernetes(version, folder):
    swagger = json.loads((module_folder("k8s.io/kubernetes", f"v{version}") / "api/openapi-spec/swagger.json").read_text())
    definitions = {name: strict(definition) for name, definition in swagger["definitions"].items()}
    (folder / "definitions.json").write_text(json.dumps({"definitions": definitions}))
    for name, definition in swagger["definitions"].items():
        for known in definition.get("x-kubernetes-group-version-kind", []):
            reference = {"$ref": f"definitions.json#/definitions/{name}"}
            (folder / file_name(known["kind"], known["group"], known["version"])).write_text(json.dumps(reference))


def crds():
    """Every definition that the chart's kinds need, as YAML gives it."""
    return [yaml.safe_load((module_folder(module, version) / path).read_text()) for module, version, path in CRD_MODULES]


def write_crds(folder):
    for definition in crds():
        spec = definition["spec"]
        for version in spec["versions"]:
            schema = copy.deepcopy(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            path = folder / file_name(spec["names"]["kind"], spec["group"], version["name"])
            path.write_text(json.dumps(strict(schema)))


def schemas(version):
    """The folder with the schemas of this Kubernetes version, and of the operators."""
    folder = CACHE / f"schemas-{version}-1"  # counted up when this file changes what it writes
    if not folder.exists():
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        write_kubernetes(version, unfinished)
        write_crds(unfinished)
        unfinished.rename(folder)
    return folder
