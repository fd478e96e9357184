"""The chart as a cluster would get it: `helm template` into Python objects."""

import pathlib
import subprocess

import yaml

import tools

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "helm/tessera"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
# What today's programs cannot run, and the chart refuses.
REFUSED = {"llama-3.1-405b-bf16-tp8-pp2.yaml": "no pipeline parallelism"}
RENDERED = [path for path in EXAMPLES if path.name not in REFUSED]
EVERYTHING = pathlib.Path(__file__).with_name("values") / "everything.yaml"
KUBE = "1.34.4"
LWS = "leaderworkerset.x-k8s.io/v1"
RELEASE = "demo"


class Refused(Exception):
    """What Helm said."""


def helm(*arguments):
    done = subprocess.run([tools.need("helm"), *map(str, arguments)], capture_output=True, text=True, timeout=60)
    # Helm tells of every symbolic link that it follows.
    errors = "\n".join(line for line in done.stderr.splitlines() if "found symbolic link" not in line)
    if done.returncode != 0:
        raise Refused(done.stdout + errors)
    return done.stdout


def text(values=None, sets=(), kube=KUBE, apis=(LWS,), chart=CHART, release=RELEASE):
    arguments = ["template", release, chart, "--namespace", "models", "--kube-version", kube]
    for api in apis:
        arguments += ["--api-versions", api]
    if values:
        arguments += ["--values", values]
    for one in sets:
        arguments += ["--set-json", one]
    return helm(*arguments)


def objects(*arguments, **more):
    """{(kind, name): object}; twice the same is an error."""
    found = {}
    for document in yaml.safe_load_all(text(*arguments, **more)):
        if document is None:
            continue
        key = document["kind"], document["metadata"]["name"]
        if key in found:
            raise AssertionError(f"twice: {key}")
        found[key] = document
    return found


def pod_templates(found):
    """(what, labels, annotations, pod spec) of everything that makes pods."""
    for (kind, name), thing in found.items():
        spec = thing.get("spec", {})
        if kind == "Pod":
            template = thing
        elif kind == "LeaderWorkerSet":
            template = spec["leaderWorkerTemplate"]["workerTemplate"]
        elif "template" in spec:
            template = spec["template"]
        else:
            continue
        metadata = template["metadata"]
        yield f"{kind} {name}", metadata.get("labels", {}), metadata.get("annotations", {}), template["spec"]
